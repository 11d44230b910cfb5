// A browser starts no worker for a page that was opened from the disk, and without one there is no search.
// There, the script of the worker runs in a hidden frame instead; the site's own code does not notice.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.title = "search";
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = inside.document.createElement("script");
      this.ready = new Promise((resolve) => script.addEventListener("load", resolve));
      script.src = url;
      inside.document.body.append(script);
    }

    postMessage(data) {
      this.ready.then(() => {
        const Message = this.frame.contentWindow.MessageEvent;
        this.frame.contentWindow.dispatchEvent(new Message("message", { data }));
      });
    }

    terminate() {
      this.frame.remove();
    }
  };
}
