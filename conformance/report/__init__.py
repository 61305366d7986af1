"""The command `report`: records as one HTML file, and as the page of the documentation."""
