"""Reading with an exported reader; imports no torch.

`label`, `partitions` and `on_ray` read whole data sets: Parquet in, Parquet out.
"""
