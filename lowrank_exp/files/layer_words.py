"""What a layer has lost by its decomposition, as tables head it. No torch here."""

LOST = {"weight_error": "weight err %", "response_error": "resp. err %", "accuracy_alone": "alone %"}
LOST_EXPLAINED = "err %: relative squared error of a layer's weight, and of its responses on training images."
