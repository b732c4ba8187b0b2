"""Finetuning on labelled records: splits, the protocol of several seeds, and scores on records no split has seen."""
