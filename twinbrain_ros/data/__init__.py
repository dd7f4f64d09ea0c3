"""Stamped messages, bags and datasets in and out."""
