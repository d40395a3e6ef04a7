"""What held-out tissue says of a gene."""

#: Columns of a prediction's ``var``, in the order in which they stand in tables.
EVIDENCE = (
    "held_out_pcc",
    "held_out_pcc_partial",
    "held_out_low",
    "held_out_high",
    "held_out_chance",
    "held_out_ceiling",
    "held_out_share_of_ceiling",
    "n_sections",
    "n_patients",
    "reliable",
)
