"""The command `report`: shows records as one HTML file, and as the page docs/support.md."""
