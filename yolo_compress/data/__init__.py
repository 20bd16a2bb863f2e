"""Aerial scenes as code, VisDrone's formats, and data sets on disk."""
