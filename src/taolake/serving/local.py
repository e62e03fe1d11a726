"""This machine seen as a place where versions are served: aliases and tags of a registered model.

The gateway reads them: alias `live` names the version that answers, alias `canary` the one that gets a part of the
requests, and tag `taolake_routes` how large that is. The steps are those of an endpoint on Databricks.
"""

import json
from typing import TYPE_CHECKING

from taolake.serving.steps import Do, Seen, Step, Want

if TYPE_CHECKING:
    from mlflow import MlflowClient

ROUTES, VERDICT, CANARY = "taolake_routes", "taolake_verdict", "canary"


class Shelf:
    """A registered model in MLflow's own store.

    Args:
        client: of the store.
        want: the version to serve.
    """

    def __init__(self, client: "MlflowClient", want: Want) -> None:
        self._client = client
        self.want = want

    def check(self) -> None:
        """A version that was registered has answered once already."""

    def look(self) -> Seen:
        """What the registry says.

        Raises:
            RuntimeError: it has no such version.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_model_version(self.want.model, str(self.want.version))
            model = self._client.get_registered_model(self.want.model)
        except MlflowException as error:
            raise RuntimeError(f"{self.want.model} has no version {self.want.version}: {error}") from None
        routes = routes_of(dict(model.tags))
        judged = model.tags.get(VERDICT, "").partition(" ")
        aliases = {name: int(version) for name, version in model.aliases.items() if name != CANARY}
        return Seen(
            exists=True,
            ready=bool(routes),
            settings_right=True,
            entity_right=True,
            routes=routes,
            aliases=aliases,
            verdict=(int(judged[0]), judged[2]) if judged[0] else None,
        )

    def do(self, step: Step) -> None:
        """Do a step; each is one write, or two that may be repeated."""
        client, model = self._client, self.want.model
        match step.do:
            case Do.ROUTE:
                new = self.want.version if len(step.routes) > 1 else None
                if new is not None:
                    client.set_registered_model_alias(model, CANARY, str(new))
                client.set_registered_model_tag(model, ROUTES, json.dumps({str(v): s for v, s in step.routes.items()}))
                if new is None:
                    client.delete_registered_model_alias(model, CANARY)
            case Do.PROBE | Do.JUDGE:
                client.set_registered_model_tag(model, VERDICT, f"{step.version} {step.word}")
            case Do.ALIAS:
                client.set_registered_model_alias(model, step.alias, str(step.version))
            case Do.UNALIAS:
                client.delete_registered_model_alias(model, step.alias)


def routes_of(tags: dict[str, str]) -> dict[int, int]:
    """Percent of the requests by version, as the tag of the registered model says; empty before the first release."""
    return {int(version): share for version, share in json.loads(tags.get(ROUTES, "{}")).items()}
