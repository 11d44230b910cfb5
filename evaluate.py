"""Measure fused images in `.mat` files; the same as `lemamba evaluate`.

Prints a table per sample, mean and standard deviation; also writes JSON, CSV, LaTeX or an HTML page. The Python twin of
`analysis_ref_batched_images` and `analysis_unref_batched_images` (and of their unbatched forms for a folder of
`output_mulExm_<i>.mat`). If the file holds `gt`, the images are measured at reduced resolution; otherwise, or with
``--full``, at full resolution from `ms`, `lms`, `pan`.
"""

from lemamba.__main__ import run

if __name__ == "__main__":
    run("evaluate")
