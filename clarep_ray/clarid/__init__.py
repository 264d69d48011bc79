"""CLARID in pure torch: no Ray, no diffusers, no files, no network; any device."""
