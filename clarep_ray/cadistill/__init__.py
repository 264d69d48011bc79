"""CaDistill: what a student learns from CLAReps. Torch only; no Ray."""
