"""Putting a registered version behind a serving endpoint: canary, promotion, rollback.

`steps` decides the next step from what the workspace says, `desk` asks the workspace and does a step, `local` does the
same with a registry on this machine, `release` goes on until there is none left. Nothing is kept in between: what was
done can be seen in the workspace, so a run that was killed anywhere is simply started again. Not here: registering a
version (`taolake.stages.register`).
"""
