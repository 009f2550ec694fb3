"""Keys that have another name now are refused with it, however they are typed."""

import pytest

OLD = {"sfp": "P", "repr": "p", "agp": "s_f", "oneshot": "rate"}


@pytest.mark.parametrize(("schedule", "key"), [*OLD.items(), ("agp", "s_i")])
@pytest.mark.parametrize("sign", ["", "++"])
def test_the_former_names_of_a_share(command, capsys, schedule, key, sign):
    new = "share_at_first" if key == "s_i" else "share"
    assert command("method=prune", f"pruning={schedule}", f"{sign}pruning.{key}=0.2", "dry_run=true") == 1
    assert f"pruning.{key} is called pruning.{new} now: type that" in capsys.readouterr().err
