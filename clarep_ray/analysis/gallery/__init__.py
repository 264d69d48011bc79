"""Pages to look at: an extraction sample by sample, a sweep trial by trial; one file each, no network."""

from clarep_ray.analysis.gallery.extraction_page import read_own_calibration, write_extraction_page
from clarep_ray.analysis.gallery.sweep_page import is_sweep, write_sweep_page

__all__ = ["is_sweep", "read_own_calibration", "write_extraction_page", "write_sweep_page"]
