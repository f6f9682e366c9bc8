"""Diagnoses written down: for people (text) and for programs (json). Pure: values in, text out."""
