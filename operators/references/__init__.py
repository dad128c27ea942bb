"""The reference sets that tamis ships, written for this project."""
