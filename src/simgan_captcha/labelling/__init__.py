"""Bulk labelling: Parquet files of images → Parquet parts of readings, on one machine or many.

Every row of every input file becomes one row of one part. Needs no torch.
"""
