"""A workspace seen from its serving endpoint: ask it what is there, and do one step.

All of it goes through `databricks-sdk`, which repeats what a busy server refuses (429, 503) or a network drops. What it
does not repeat (500, conflicts, time-outs) is left to `release`, which looks again first.
"""

from typing import TYPE_CHECKING, Any

from taolake.serving.steps import FAILED, Do, Refused, Seen, Step, Want, log_prefix, served_name

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.service.serving import AiGatewayConfig, ServedEntityInput, ServingEndpointDetailed

_VERDICT = "taolake_verdict"
_ASKED = 3  # times for each probe: a server may stumble once
_TOKENS = 64  # of an answer to a probe: it must speak, not finish


class Desk:
    """One endpoint and its model in one workspace.

    Args:
        client: the workspace.
        want: the version to serve.
    """

    def __init__(self, client: "WorkspaceClient", want: Want) -> None:
        self._client = client
        self.want = want
        self._chunks: dict[int, int] = {}

    def look(self) -> Seen:
        """What is there now."""
        want = self.want
        version = self._client.model_versions.get(want.model, want.version)
        model = self._client.registered_models.get(want.model, include_aliases=True)
        aliases = {str(a.alias_name): int(a.version_num or 0) for a in model.aliases or []}
        registered = version.status.value if version.status else "READY"
        endpoint = self._endpoint()
        if endpoint is None:
            return Seen(registered, aliases=aliases)
        state, config = endpoint.state, endpoint.config
        update = state.config_update.value if state and state.config_update else "NOT_UPDATING"
        served = {e.name: e for e in (config.served_entities if config else None) or []}
        routes = (config.traffic_config.routes if config and config.traffic_config else None) or []
        mine = next((e for e in served.values() if e.entity_version == str(want.version)), None)
        tags = {tag.key: tag.value or "" for tag in endpoint.tags or []}
        judged = tags.get(_VERDICT, "").partition(" ")
        return Seen(
            registered=registered,
            exists=True,
            updating=update == "IN_PROGRESS",
            ready=bool(state and state.ready and state.ready.value == "READY"),
            failure=_failure(endpoint) if update in ("UPDATE_FAILED", "UPDATE_CANCELED") else None,
            settings_right=_covers(endpoint.ai_gateway.as_dict() if endpoint.ai_gateway else {}, _settings(want)),
            entity_right=mine is not None and _covers(mine.as_dict(), self._wanted(want.version).as_dict()),
            routes={int(served[r.served_entity_name].entity_version or 0): r.traffic_percentage for r in routes},
            aliases=aliases,
            verdict=(int(judged[0]), judged[2]) if judged[0] else None,
        )

    def check(self) -> None:
        """Ask whether the model can be served as wanted, before anything is changed.

        Raises:
            ValueError: provisioned throughput, of an architecture that Databricks does not provision.
        """
        self._wanted(self.want.version)

    def do(self, step: Step) -> None:
        """Do a step; to be done twice, it must be asked for twice."""
        want, client = self.want, self._client
        match step.do:
            case Do.CREATE:
                self._create(step)
            case Do.SETTINGS:
                client.serving_endpoints.put_ai_gateway(want.serve.endpoint, **_gateway(want).__dict__)
            case Do.ROUTE:
                entities, traffic = self._served(step)
                client.serving_endpoints.update_config(
                    want.serve.endpoint, served_entities=entities, traffic_config=traffic
                )
            case Do.PROBE:
                trouble = self._probe()
                self._tag(step.version, FAILED if trouble else step.word)
                if trouble:
                    raise Refused(trouble)
            case Do.JUDGE:
                self._tag(step.version, step.word)
            case Do.ALIAS:
                client.registered_models.set_alias(want.model, step.alias, step.version)
            case Do.UNALIAS:
                client.registered_models.delete_alias(want.model, step.alias)

    def ask(self, version: int, question: str) -> str:
        """One answer of one version, whatever its share of the requests."""
        entity = served_name(self.want.model, version)
        path = f"/serving-endpoints/{self.want.serve.endpoint}/served-models/{entity}/invocations"
        body = {"messages": [{"role": "user", "content": question}], "max_tokens": _TOKENS}
        reply: Any = self._client.api_client.do("POST", path, body=body)
        return str(reply["choices"][0]["message"]["content"] or "")

    def _probe(self) -> str | None:
        """Why the version does not pass, or None."""
        from databricks.sdk.errors import BadRequest, InternalError

        version = self.want.version
        for question in self.want.serve.probes:
            for left in reversed(range(_ASKED)):
                try:
                    if not self.ask(version, question).strip():
                        return f"version {version} answers nothing to {question!r}"
                    break
                except (BadRequest, InternalError, TimeoutError) as error:
                    if not left:
                        return f"version {version} does not answer {question!r}: {error}"
        return None

    def _endpoint(self) -> "ServingEndpointDetailed | None":
        from databricks.sdk.errors import NotFound

        try:
            return self._client.serving_endpoints.get(self.want.serve.endpoint)
        except NotFound:
            return None

    def _create(self, step: Step) -> None:
        from databricks.sdk.service.serving import EndpointCoreConfigInput, EndpointTag

        entities, traffic = self._served(step)
        self._client.serving_endpoints.create(
            self.want.serve.endpoint,
            config=EndpointCoreConfigInput(self.want.serve.endpoint, served_entities=entities, traffic_config=traffic),
            ai_gateway=_gateway(self.want),
            tags=[EndpointTag("project", "taolake")],
        )

    def _served(self, step: Step) -> tuple[list["ServedEntityInput"], Any]:
        """Entities and traffic of a step; an entity that is there and stays is sent back as it is."""
        from databricks.sdk.service.serving import Route, ServedEntityInput, TrafficConfig

        endpoint = self._endpoint()
        there = (endpoint.config.served_entities if endpoint and endpoint.config else None) or []
        entities = []
        for version in step.routes:
            now = next((e for e in there if e.entity_version == str(version)), None)
            keep = now is not None and version != self.want.version
            entities.append(ServedEntityInput.from_dict(now.as_dict()) if now and keep else self._wanted(version))
        names = [str(entity.name) for entity in entities]
        shares = step.routes.values()
        routes = [Route(share, served_entity_name=name) for name, share in zip(names, shares, strict=True)]
        return entities, TrafficConfig(routes=routes)

    def _wanted(self, version: int) -> "ServedEntityInput":
        from databricks.sdk.service.serving import ServedEntityInput, ServingModelWorkloadType

        serve, name = self.want.serve, self.want.model
        entity = ServedEntityInput(entity_name=name, entity_version=str(version), name=served_name(name, version))
        if serve.kind == "custom":
            entity.workload_type = ServingModelWorkloadType(serve.workload_type)
            entity.workload_size, entity.scale_to_zero_enabled = serve.workload_size, serve.scale_to_zero
            entity.environment_vars = dict(serve.secrets) or None
        else:
            chunk = self._chunk(version)
            entity.min_provisioned_throughput = 0 if serve.scale_to_zero else chunk
            entity.max_provisioned_throughput = serve.chunks * chunk
        return entity

    def _chunk(self, version: int) -> int:
        """Tokens a second in which throughput of this model is sold."""
        if version in self._chunks:
            return self._chunks[version]
        path = f"/api/2.0/serving-endpoints/get-model-optimization-info/{self.want.model}/{version}"
        found: Any = self._client.api_client.do("GET", path)
        if not found.get("optimizable"):
            raise ValueError(
                f"{self.want.model} version {version} cannot have provisioned throughput (model type "
                f"{found.get('model_type')}); set serve.kind to custom and register it again"
            )
        self._chunks[version] = int(found["throughput_chunk_size"])
        return self._chunks[version]

    def _tag(self, version: int, word: str) -> None:
        from databricks.sdk.service.serving import EndpointTag

        tag = EndpointTag(_VERDICT, f"{version} {word}")
        self._client.serving_endpoints.patch(self.want.serve.endpoint, add_tags=[tag])


def _gateway(want: Want) -> "AiGatewayConfig":
    """Logging, usage and limits."""
    from databricks.sdk.service import serving as s

    catalog, _, schema = want.lake.partition(".")
    prefix, limit = log_prefix(want.serve.endpoint), want.serve.requests_per_minute
    minute, user = s.AiGatewayRateLimitRenewalPeriod.MINUTE, s.AiGatewayRateLimitKey.USER
    return s.AiGatewayConfig(
        inference_table_config=s.AiGatewayInferenceTableConfig(
            enabled=want.serve.inference_table, catalog_name=catalog, schema_name=schema, table_name_prefix=prefix
        ),
        usage_tracking_config=s.AiGatewayUsageTrackingConfig(enabled=True),
        rate_limits=[s.AiGatewayRateLimit(minute, calls=limit, key=user)] if limit else None,
    )


def _settings(want: Want) -> dict[str, Any]:
    return _gateway(want).as_dict()


def _covers(there: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there; a server adds fields of its own, and hides environment variables."""
    if isinstance(wanted, dict):
        keys = wanted.keys() - {"environment_vars"}
        return isinstance(there, dict) and all(_covers(there.get(key), wanted[key]) for key in keys)
    if isinstance(wanted, list):
        if not isinstance(there, list) or len(there) != len(wanted):
            return False
        return all(_covers(a, b) for a, b in zip(there, wanted, strict=True))
    return bool(there == wanted)


def _failure(endpoint: "ServingEndpointDetailed") -> str:
    """What the platform says about a deployment that failed."""
    configs = (endpoint.pending_config, endpoint.config)
    states = [e.state for config in configs if config for e in config.served_entities or [] if e.state]
    said = [s.deployment_state_message for s in states if s.deployment and "FAILED" in s.deployment.value]
    return next((text for text in said if text), "no reason given")
