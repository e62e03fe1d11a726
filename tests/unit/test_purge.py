"""Purging in a catalog: the SQL, in the order in which it must run."""

from taolake.lake import purge


def test_a_table_of_a_catalog_keeps_nothing_older() -> None:
    first, rewrite, vacuum, last = purge.statements("main.tuning.prompts")
    assert first.startswith("ALTER TABLE main.tuning.prompts SET TBLPROPERTIES (")
    assert "'delta.deletedFileRetentionDuration' = 'interval 0 hours'" in first
    assert "'delta.logRetentionDuration' = 'interval 0 hours'" in first
    assert (
        rewrite == "REORG TABLE main.tuning.prompts APPLY (PURGE)"
    )  # before the vacuum, which takes what it wrote out
    assert vacuum == "VACUUM main.tuning.prompts"
    assert last.endswith("UNSET TBLPROPERTIES IF EXISTS ('delta.deletedFileRetentionDuration')")
