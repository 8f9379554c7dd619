"""Checks deploy/azure as far as that goes without Azure: azure.py ROOT

ROOT is the repository, or a copy of it with a mistake in it. Prints each mistake and fails. The syntax is read by
pycep-parser, which knows no resource types: whether Azure takes a property is not checked here.
"""

import json
import os
import re
import sys
from pathlib import Path

import yaml
from pycep import BicepParser

ROOT = Path(sys.argv[1])
AZURE = ROOT / "deploy/azure"
INFRA = AZURE / "infra"
MODULES = INFRA / "modules"
# What azd deploys containers to.
HOSTS = {"appservice": "Microsoft.Web/sites", "containerapp": "Microsoft.App/containerApps"}
ACR_PULL = "7f951dda-4ed3-4680-a7ca-43fe172d538d"
SECRETS_USER = "4633458b-17de-408a-b874-0445c86b69e6"
mistakes = []


def expect(holds, what):
    if not holds:
        mistakes.append(what)


def parsed(path):
    return BicepParser().parse(text=path.read_text())


def without_comments(path):
    return re.sub(r"(?m)(^|\s)//.*$", "", path.read_text())


def resources(module, kind):
    return [of for of in parsed(MODULES / module)["resources"].values() if of["type"] == kind]


def decorator(of, kind):
    return next((d["argument"] for d in of["decorators"] if d["type"] == kind), None)


def fits():
    """Parameters and outputs of the modules are those that main.bicep gives and takes."""
    main, text = parsed(INFRA / "main.bicep"), without_comments(INFRA / "main.bicep")
    outputs = {}
    for name, module in main["modules"].items():
        path = INFRA / module["detail"]["path"]
        if not path.is_file():
            mistakes.append(f"{name}: there is no {path}")
            continue
        there, config = parsed(path), module["config"]
        given = set((config.get("params") or config["config"]["params"]))
        declared = there.get("parameters", {})
        needed = {p for p, of in declared.items() if of["default"] is None}
        expect(given <= set(declared), f"{name}: has no parameters {sorted(given - set(declared))}")
        expect(needed <= given, f"{name}: is not given {sorted(needed - given)}")
        outputs[name] = set(there.get("outputs", {}))
        body = without_comments(path)
        for parameter in declared:
            used = len(re.findall(rf"\b{parameter}\b", body))
            expect(used > 1, f"{path.name}: nothing uses the parameter {parameter}")
    unknown = {m for m in set(p.name for p in MODULES.glob("*.bicep"))} - {
        Path(m["detail"]["path"]).name for m in main["modules"].values()
    }
    expect(not unknown, f"main.bicep uses no {sorted(unknown)}")
    for name, output in re.findall(r"\b(\w+)\.outputs\.(\w+)", text):
        expect(output in outputs.get(name, ()), f"main.bicep: {name} has no output {output}")
    values = json.loads((INFRA / "main.parameters.json").read_text())["parameters"]
    expect(set(values) == set(main["parameters"]), "main.parameters.json: not the parameters of main.bicep")
    expect(values["instanceCount"]["value"] == "${INSTANCE_COUNT=3}", "INSTANCE_COUNT does not become instanceCount")
    allowed = {"reference", "gateway"}
    expect(set(decorator(main["parameters"]["role"], "allowed") or ()) == allowed, "role: not reference or gateway")
    for of in [main, *(parsed(MODULES / m) for m in ("appservice.bicep", "containerapps.bicep"))]:
        count = of["parameters"]["instanceCount"]
        bounds = (decorator(count, "min_value"), decorator(count, "max_value"))
        expect(bounds == (1, 10), f"instanceCount: from {bounds[0]} to {bounds[1]}, not from 1 to 10")
    expect(main["parameters"]["instanceCount"]["default"] == 3, "instanceCount: the default is not 3")


def app_service():
    plan = resources("appservice.bicep", "Microsoft.Web/serverfarms")[0]["config"]
    expect(plan["sku"]["name"] == "P0v3", "the plan is not P0v3")
    expect(plan["sku"]["capacity"] == "instanceCount", "the plan has not instanceCount instances")
    expect(plan["properties"]["reserved"] is True, "the plan is not for Linux")
    site = parsed(MODULES / "appservice.bicep")["variables"]["siteConfig"]["value"]
    expect(site["healthCheckPath"] == "/healthz", "healthCheckPath is not /healthz")
    expect(site["alwaysOn"] is True, "alwaysOn is not true")
    expect(site["acrUseManagedIdentityCreds"] is True, "the image is not pulled as the managed identity")
    slots = resources("appservice.bicep", "Microsoft.Web/sites/slots")
    expect(len(slots) == 1, "there is no staging slot")
    for app in resources("appservice.bicep", "Microsoft.Web/sites") + slots:
        properties = app["config"]["properties"]
        expect(properties["clientAffinityEnabled"] is False, "clientAffinityEnabled is not false")
        expect(properties["httpsOnly"] is True, "httpsOnly is not true")
        expect(properties["siteConfig"] == "siteConfig", "the slot is configured differently")
        expect(properties["keyVaultReferenceIdentity"] == "identityId", "secrets are not read as the identity")
        expect(app["config"]["identity"]["type"] == "UserAssigned", "the identity is not user-assigned")


def container_apps():
    app = resources("containerapps.bicep", "Microsoft.App/containerApps")[0]["config"]["properties"]
    expect(app["configuration"]["ingress"]["stickySessions"]["affinity"] == "none", "affinity is not none")
    expect(set(app["template"]["scale"].values()) == {"instanceCount"}, "there are not instanceCount replicas")
    paths = {p["httpGet"]["path"] for p in parsed(MODULES / "containerapps.bicep")["variables"]["probes"]["value"]}
    expect(paths == {"/healthz", "/readyz"}, f"the probes ask {sorted(paths)}")


def secrets():
    """The secret goes into the vault and nowhere else, and only the identity gets in."""
    for module, role in (("registry.bicep", ACR_PULL), ("vault.bicep", SECRETS_USER)):
        assigned = resources(module, "Microsoft.Authorization/roleAssignments")
        variables = parsed(MODULES / module)["variables"]
        expect(len(assigned) == 1, f"{module}: not one role")
        roles = [v for v, of in variables.items() if of["value"] == role]
        definition = str(assigned[0]["config"]["properties"]["roleDefinitionId"]) if assigned else ""
        expect(bool(roles) and roles[0] in definition, f"{module}: the role is another one")
    registry = resources("registry.bicep", "Microsoft.ContainerRegistry/registries")[0]
    expect(registry["config"]["properties"]["adminUserEnabled"] is False, "the registry has a password")
    database = resources("redis.bicep", "Microsoft.Cache/redisEnterprise/databases")[0]["config"]["properties"]
    expect(database["accessKeysAuthentication"] == "Disabled", "Redis has access keys")
    expect(database["evictionPolicy"] == "NoEviction", "Redis evicts")

    main = parsed(INFRA / "main.bicep")
    for name, parameter in main["parameters"].items():
        secure = any(d["type"] == "secure" for d in parameter["decorators"])
        expect(secure == (name in ("referenceKey", "keyRing")), f"main.bicep: {name} is @secure() or not, wrongly")
        if secure:
            # Its declaration, whether there is one, and the vault's.
            uses = re.sub(rf"empty\({name}\)", "", without_comments(INFRA / "main.bicep"))
            uses = [line.strip() for line in uses.splitlines() if re.search(rf"\b{name}\b", line)]
            good = [f"param {name} string = ''", "secret: isGateway ? keyRing : referenceKey"]
            expect(uses == good, f"main.bicep: {name} goes elsewhere than into the vault: {uses}")
    vault = parsed(MODULES / "vault.bicep")
    secure = any(d["type"] == "secure" for d in vault["parameters"]["secret"]["decorators"])
    expect(secure, "vault.bicep: secret is not @secure()")
    app = without_comments(MODULES / "appservice.bicep")
    uses = [line.strip() for line in app.splitlines() if "secretVariable}" in line]
    good = "'${secretVariable}': '@Microsoft.KeyVault(SecretUri=${secretUri})'"
    expect(uses == [good], "appservice.bicep: the secret's setting is no Key Vault reference")
    for path in INFRA.rglob("*.bicep"):
        text = without_comments(path)
        expect(not re.search(r"listKeys|listCredentials|primarySharedKey|password", text, re.I), f"{path.name}: a key")
        outputs = " ".join(re.findall(r"(?m)^output.*$", text))
        expect(not re.search(r"\b(referenceKey|keyRing|secret)\b", outputs), f"{path.name}: a secret is an output")

    # The program's variables are called as the documentation says.
    documented = "".join(p.read_text() for p in (ROOT / "docs").glob("*.md") if p.name != "azure.md")
    for path in INFRA.rglob("*.bicep"):
        for name in set(re.findall(r"\bTHROUGHLINE_\w+", without_comments(path))):
            expect(f"`{name}" in documented, f"{path.name}: no documentation knows {name}")


def azd(path, hosting):
    """What azd needs to find: the project, its Dockerfile, the templates, the resource of the service."""
    config, here = yaml.safe_load(path.read_text()), path.parent
    expect(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", config["name"]), f"{path}: name")
    infra = config["infra"]
    base = here / infra["path"] / infra["module"]
    expect(infra["provider"] == "bicep" and base.with_suffix(".bicep").is_file(), f"{path}: infra has no templates")
    expect(base.with_suffix(".parameters.json").is_file(), f"{path}: infra has no parameters")
    expect(list(config["services"]) == ["mcp"], f"{path}: the templates know one service, mcp")
    for name, service in config["services"].items():
        project = here / service["project"]
        expect(project.resolve() == ROOT.resolve(), f"{path}: the project is not the repository")
        expect((project / service["docker"]["path"]).is_file(), f"{path}: there is no Dockerfile")
        expect(service["language"] == "docker", f"{path}: azd would deploy an archive, not a container")
        kind = HOSTS.get(service["host"])
        module = {"appservice": "appservice.bicep", "containerapps": "containerapps.bicep"}[hosting]
        expect(kind and resources(module, kind), f"{path}: {module} makes nothing of the host {service['host']}")
        tags = str([app["config"]["tags"] for app in resources(module, kind)]) if kind else ""
        expect("azd-service-name" in tags and f"'{name}'" in tags, f"{path}: azd does not find {name} by its tag")
        values = json.loads((INFRA / "main.parameters.json").read_text())["parameters"]
        expect(values["image"]["value"] == f"${{SERVICE_{name.upper()}_IMAGE_NAME=}}", f"{path}: image")
    expect("AZURE_CONTAINER_REGISTRY_ENDPOINT" in parsed(INFRA / "main.bicep")["outputs"], "azd finds no registry")
    for system, hook in config["hooks"]["preprovision"].items():
        script, argument = hook["run"].split()
        expect(os.access(here / script, os.X_OK), f"{path}: {system}: {script} cannot be run")
        expect(argument == hosting, f"{path}: {system}: prepares for {argument}")


fits()
app_service()
container_apps()
secrets()
azd(AZURE / "azure.yaml", "appservice")
azd(AZURE / "containerapps/azure.yaml", "containerapps")
for mistake in mistakes:
    print(f"deploy/azure: {mistake}", file=sys.stderr)
sys.exit(1 if mistakes else 0)
