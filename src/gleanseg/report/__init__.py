"""Reads rows and images of a finished or running run and writes one HTML page; never trains."""
