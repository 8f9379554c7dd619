// The same image in Container Apps, as many replicas as instances were asked for.
param name string
param environmentName string
param location string
param tags object
@minValue(1)
@maxValue(10)
param instanceCount int
param image string
param role string
param port int
param arguments array
param hostNames string
param store string
param secretVariable string
@description('Where the secret is, or empty.')
param secretUri string
param identityId string
param registryServer string
param workspaceId string
param insightsConnectionString string

var defaultHost = '${name}.${managed.properties.defaultDomain}'
var allHosts = empty(hostNames) ? defaultHost : '${defaultHost},${hostNames}'

var commonVariables = [
  {
    name: 'PORT'
    value: string(port)
  }
  {
    name: 'APPLICATIONINSIGHTS_CONNECTION_STRING'
    value: insightsConnectionString
  }
]
var referenceVariables = [
  {
    name: 'THROUGHLINE_REFERENCE_HOSTS'
    value: allHosts
  }
]
var gatewayVariables = [
  {
    name: 'THROUGHLINE_LISTEN'
    value: '0.0.0.0:${port}'
  }
  {
    name: 'THROUGHLINE_ALLOWED_HOSTS'
    value: allHosts
  }
  {
    name: 'THROUGHLINE_STORE'
    value: store
  }
]
var secretVariables = empty(secretUri) ? [] : [
  {
    name: secretVariable
    secretRef: 'throughline'
  }
]
var allVariables = concat(commonVariables, role == 'gateway' ? gatewayVariables : referenceVariables, secretVariables)

var probes = [
  {
    type: 'Liveness'
    httpGet: {
      path: '/healthz'
      port: port
    }
    periodSeconds: 10
    timeoutSeconds: 5
  }
  {
    type: 'Readiness'
    httpGet: {
      path: '/readyz'
      port: port
    }
    periodSeconds: 5
  }
]

resource managed 'Microsoft.App/managedEnvironments@2024-03-01' = {
  name: environmentName
  location: location
  tags: tags
  properties: {
    // By diagnostic settings, which need no key of the workspace.
    appLogsConfiguration: {
      destination: 'azure-monitor'
    }
  }
}

resource logs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'logs'
  scope: managed
  properties: {
    workspaceId: workspaceId
    logs: [
      {
        category: 'ContainerAppConsoleLogs'
        enabled: true
      }
      {
        category: 'ContainerAppSystemLogs'
        enabled: true
      }
    ]
  }
}

resource app 'Microsoft.App/containerApps@2024-03-01' = {
  name: name
  location: location
  tags: union(tags, { 'azd-service-name': 'mcp' })
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    managedEnvironmentId: managed.id
    configuration: {
      activeRevisionsMode: 'Single'
      ingress: {
        external: true
        targetPort: port
        transport: 'auto'
        stickySessions: {
          affinity: 'none'
        }
      }
      registries: [
        {
          server: registryServer
          identity: identityId
        }
      ]
      secrets: empty(secretUri) ? [] : [
        {
          name: 'throughline'
          keyVaultUrl: secretUri
          identity: identityId
        }
      ]
    }
    template: {
      containers: [
        {
          name: 'throughline'
          // Before the first deployment there is no image of ours, and the one in its place knows neither arguments
          // nor paths: then `azd provision` once more.
          image: empty(image) ? 'mcr.microsoft.com/k8se/quickstart:latest' : image
          args: empty(image) ? [] : arguments
          env: allVariables
          probes: empty(image) ? [] : probes
          resources: {
            cpu: json('0.5')
            memory: '1Gi'
          }
        }
      ]
      scale: {
        minReplicas: instanceCount
        maxReplicas: instanceCount
      }
      // timeouts.shutdown (20s), and what is said to upstreams afterwards.
      terminationGracePeriodSeconds: 30
    }
  }
}

output url string = 'https://${app.properties.configuration.ingress.fqdn}/mcp'
