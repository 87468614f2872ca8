"""A lock is one process's at a time, and leaves nothing."""

from concurrent.futures import ThreadPoolExecutor

from befa.locks import locked


def test_one_at_a_time_and_nothing_is_left(tmp_path):
    inside, most = 0, 0

    def enter(_):
        nonlocal inside, most
        with locked(tmp_path / "folder/a.lock"):
            inside += 1
            most = max(most, inside)
            inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(400)))
    assert (inside, most) == (0, 1)
    assert list((tmp_path / "folder").iterdir()) == []
