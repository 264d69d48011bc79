"""What the outputs say: clusters, controls, figures. Reads shards; no Ray."""
