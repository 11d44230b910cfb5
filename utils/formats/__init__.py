"""File formats: MATLAB `.mat` files, fused images in them, validation limits for untrusted files."""
