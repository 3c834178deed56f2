"""Inference with an exported recognizer, without torch.

`label`, `partitions` and `on_ray` label whole data sets, from Parquet to Parquet.
"""
