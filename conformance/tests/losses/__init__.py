"""Wrong, misbehaving and right losses, on which `--impl` is tested."""
