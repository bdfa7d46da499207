"""The command that checks the world: what it refuses."""

from analysis.world_check.__main__ import main


def test_the_command_names_a_mistake_in_one_sentence(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert main([str(tmp_path)]) == 1
    assert "has no completed run of vanilla" in capsys.readouterr().err
