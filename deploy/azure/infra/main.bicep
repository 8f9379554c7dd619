// Throughline on Azure: the reference server, or the gateway in front of a server that exists. See docs/azure.md.
targetScope = 'subscription'

@description('The name of the azd environment: names and tags come from it.')
@minLength(1)
@maxLength(40)
param environmentName string

@description('The Azure region.')
param location string

@description('What it runs on.')
@allowed([
  'appservice'
  'containerapps'
])
param hosting string = 'appservice'

@description('reference: the stateless reference server. gateway: the gateway in front of upstreamUrl.')
@allowed([
  'reference'
  'gateway'
])
param role string = 'reference'

@description('How many instances there are.')
@minValue(1)
@maxValue(10)
param instanceCount int = 3

@description('The image that was deployed last; empty before the first time.')
param image string = ''

@description('The MCP endpoint behind the gateway.')
param upstreamUrl string = ''

@description('Names of your own by which clients reach it, with commas between them.')
param hostNames string = ''

@description('Whether the gateway has a Managed Redis, through which its instances share sessions.')
@allowed([
  'yes'
  'no'
])
param redis string = 'yes'

@description('What signs the handles of the reference server.')
@secure()
param referenceKey string = ''

@description('The key ring of the gateway, in one line.')
@secure()
param keyRing string = ''

var tags = { 'azd-env-name': environmentName }
var token = toLower(uniqueString(subscription().id, environmentName, location))
var isGateway = role == 'gateway'
var hasSecret = isGateway ? !empty(keyRing) : !empty(referenceKey)
// The reference server keeps nothing, so it has no use for one.
var hasRedis = isGateway && redis == 'yes'
var port = isGateway ? 8808 : 3000
var secretVariable = isGateway ? 'THROUGHLINE_KEY_RING' : 'THROUGHLINE_REFERENCE_KEY'
var arguments = isGateway ? [
  'serve'
  upstreamUrl
] : [
  'reference'
]

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: tags
}

module identity 'modules/identity.bicep' = {
  name: 'identity'
  scope: group
  params: {
    name: 'id-${token}'
    location: location
    tags: tags
  }
}

module monitoring 'modules/monitoring.bicep' = {
  name: 'monitoring'
  scope: group
  params: {
    suffix: token
    location: location
    tags: tags
  }
}

module registry 'modules/registry.bicep' = {
  name: 'registry'
  scope: group
  params: {
    name: 'cr${token}'
    location: location
    tags: tags
    principalId: identity.outputs.principalId
  }
}

module vault 'modules/vault.bicep' = if (hasSecret) {
  name: 'vault'
  scope: group
  params: {
    name: 'kv-${token}'
    location: location
    tags: tags
    principalId: identity.outputs.principalId
    secret: isGateway ? keyRing : referenceKey
  }
}

module cache 'modules/redis.bicep' = if (hasRedis) {
  name: 'redis'
  scope: group
  params: {
    name: 'redis-${token}'
    location: location
    tags: tags
    principalId: identity.outputs.principalId
  }
}

// No password in it: the gateway signs in as the identity.
var signIn = 'auth=entra&client_id=${identity.outputs.clientId}'
var store = hasRedis ? 'rediss://${cache.outputs.hostName}:10000?${signIn}' : 'memory:'

module appService 'modules/appservice.bicep' = if (hosting == 'appservice') {
  name: 'appservice'
  scope: group
  params: {
    name: 'app-${token}'
    planName: 'plan-${token}'
    location: location
    tags: tags
    instanceCount: instanceCount
    image: image
    role: role
    port: port
    commandLine: join(arguments, ' ')
    hostNames: hostNames
    store: store
    secretVariable: secretVariable
    secretUri: hasSecret ? vault.outputs.secretUri : ''
    identityId: identity.outputs.id
    identityClientId: identity.outputs.clientId
    workspaceId: monitoring.outputs.workspaceId
    insightsConnectionString: monitoring.outputs.insightsConnectionString
  }
}

module containerApps 'modules/containerapps.bicep' = if (hosting == 'containerapps') {
  name: 'containerapps'
  scope: group
  params: {
    name: 'app-${token}'
    environmentName: 'cae-${token}'
    location: location
    tags: tags
    instanceCount: instanceCount
    image: image
    role: role
    port: port
    arguments: arguments
    hostNames: hostNames
    store: store
    secretVariable: secretVariable
    secretUri: hasSecret ? vault.outputs.secretUri : ''
    identityId: identity.outputs.id
    registryServer: registry.outputs.server
    workspaceId: monitoring.outputs.workspaceId
    insightsConnectionString: monitoring.outputs.insightsConnectionString
  }
}

// azd reads these: where to push to, and what to show.
output AZURE_LOCATION string = location
output AZURE_RESOURCE_GROUP string = group.name
output AZURE_CONTAINER_REGISTRY_ENDPOINT string = registry.outputs.server
output AZURE_CONTAINER_REGISTRY_NAME string = registry.outputs.name
output APP_NAME string = 'app-${token}'
output MCP_URL string = hosting == 'appservice' ? appService.outputs.url : containerApps.outputs.url
