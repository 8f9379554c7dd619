// A Linux web app from a container, on a Premium v3 plan, with a staging slot.
param name string
param planName string
param location string
param tags object
@minValue(1)
@maxValue(10)
param instanceCount int
param image string
param role string
param port int
param commandLine string
param hostNames string
param store string
param secretVariable string
@description('Where the secret is, or empty.')
param secretUri string
param identityId string
param identityClientId string
param workspaceId string
param insightsConnectionString string

var slotName = 'staging'
// Both names on both sides: a swap exchanges what runs, and the names stay.
var defaultHosts = '${name}.azurewebsites.net,${name}-${slotName}.azurewebsites.net'
var allHosts = empty(hostNames) ? defaultHosts : '${defaultHosts},${hostNames}'

var commonSettings = {
  PORT: string(port)
  WEBSITES_PORT: string(port)
  WEBSITES_ENABLE_APP_SERVICE_STORAGE: 'false'
  // How often the health check may fail before an instance is taken out, at one look each minute.
  WEBSITE_HEALTHCHECK_MAXPINGFAILURES: '2'
  APPLICATIONINSIGHTS_CONNECTION_STRING: insightsConnectionString
}
var referenceSettings = {
  THROUGHLINE_REFERENCE_HOSTS: allHosts
}
var gatewaySettings = {
  THROUGHLINE_LISTEN: '0.0.0.0:${port}'
  THROUGHLINE_ALLOWED_HOSTS: allHosts
  THROUGHLINE_STORE: store
}
// The platform reads the secret, as the identity; who reads the settings sees where it is.
var secretSettings = empty(secretUri) ? {} : {
  '${secretVariable}': '@Microsoft.KeyVault(SecretUri=${secretUri})'
}
var settings = union(commonSettings, role == 'gateway' ? gatewaySettings : referenceSettings, secretSettings)

var siteConfig = {
  linuxFxVersion: empty(image) ? 'DOCKER|mcr.microsoft.com/appsvc/staticsite:latest' : 'DOCKER|${image}'
  appCommandLine: commandLine
  acrUseManagedIdentityCreds: true
  acrUserManagedIdentityID: identityClientId
  alwaysOn: true
  healthCheckPath: '/healthz'
  http20Enabled: true
  minTlsVersion: '1.2'
  ftpsState: 'Disabled'
}

resource plan 'Microsoft.Web/serverfarms@2024-04-01' = {
  name: planName
  location: location
  tags: tags
  kind: 'linux'
  sku: {
    name: 'P0v3'
    tier: 'PremiumV3'
    capacity: instanceCount
  }
  properties: {
    reserved: true
  }
}

resource site 'Microsoft.Web/sites@2024-04-01' = {
  name: name
  location: location
  tags: union(tags, { 'azd-service-name': 'mcp' })
  kind: 'app,linux,container'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    // No cookie that pins a client to an instance: any of them answers.
    clientAffinityEnabled: false
    keyVaultReferenceIdentity: identityId
    siteConfig: siteConfig
  }
}

resource siteSettings 'Microsoft.Web/sites/config@2024-04-01' = {
  parent: site
  name: 'appsettings'
  properties: settings
}

resource staging 'Microsoft.Web/sites/slots@2024-04-01' = {
  parent: site
  name: slotName
  location: location
  tags: tags
  kind: 'app,linux,container'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    clientAffinityEnabled: false
    keyVaultReferenceIdentity: identityId
    siteConfig: siteConfig
  }
}

resource stagingSettings 'Microsoft.Web/sites/slots/config@2024-04-01' = {
  parent: staging
  name: 'appsettings'
  properties: settings
}

resource logs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'logs'
  scope: site
  properties: {
    workspaceId: workspaceId
    logs: [
      {
        category: 'AppServiceHTTPLogs'
        enabled: true
      }
      {
        category: 'AppServiceConsoleLogs'
        enabled: true
      }
      {
        category: 'AppServicePlatformLogs'
        enabled: true
      }
    ]
  }
}

output url string = 'https://${site.properties.defaultHostName}/mcp'
