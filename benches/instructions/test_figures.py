"""Tests of the gate: `python3 -m unittest benches.instructions.test_figures`."""

import pathlib
import platform
import tempfile
import unittest
from unittest import mock

from benches.instructions import figures


class FiguresTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        file = pathlib.Path(folder.name) / "figures.toml"
        file.write_text('[another]\nrustc = "1"\nissue = 1\n')
        patch = mock.patch.object(figures, "FILE", file)
        patch.start()
        self.addCleanup(patch.stop)
        figures.update({"issue": 100_000})

    def test_limit_is_five_percent_above_the_committed_figure(self):
        self.assertFalse(figures.compare({"issue": 105_000})[1])
        lines, failed = figures.compare({"issue": 105_001})
        self.assertTrue(failed)
        self.assertIn("too many", lines[0])

    def test_cheaper_call_passes_and_suggests_an_update(self):
        lines, failed = figures.compare({"issue": 94_000})
        self.assertFalse(failed)
        self.assertIn("benches/instructions/run update", lines[0])

    def test_workload_without_a_figure_fails(self):
        self.assertTrue(figures.compare({"issue": 100_000, "login": 1})[1])

    def test_architecture_without_figures_fails(self):
        with mock.patch.object(platform, "machine", return_value="unknown"):
            self.assertTrue(figures.compare({"issue": 1})[1])

    def test_update_keeps_the_figures_of_other_architectures(self):
        with mock.patch.object(platform, "machine", return_value="another"):
            self.assertEqual(figures.committed()["issue"], 1)


if __name__ == "__main__":
    unittest.main()
