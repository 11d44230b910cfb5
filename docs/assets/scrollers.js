// What is wider than the page scrolls on its own: with the arrow keys too, once it can have the focus.
// The theme wraps tables in a frame that scrolls, and lets only code that is in sight have the focus.
const reachable = () => {
  for (const one of document.querySelectorAll(".md-typeset__scrollwrap, .md-content pre > code")) {
    if (one.scrollWidth > one.clientWidth) one.tabIndex = 0;
    else if (one.matches(".md-typeset__scrollwrap")) one.removeAttribute("tabindex");
  }
};
addEventListener("resize", reachable);
addEventListener("load", reachable);
