"""File formats: `.mat` files of MATLAB, fused images in them, limits on what files may hold."""
