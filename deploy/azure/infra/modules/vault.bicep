// The one secret that all instances share: the signing key or the key ring.
param name string
param location string
param tags object
@description('Who may read it.')
param principalId string
@secure()
param secret string

var secretsUser = '4633458b-17de-408a-b874-0445c86b69e6'

resource vault 'Microsoft.KeyVault/vaults@2023-07-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    tenantId: subscription().tenantId
    sku: {
      family: 'A'
      name: 'standard'
    }
    enableRbacAuthorization: true
    enableSoftDelete: true
  }
}

resource shared 'Microsoft.KeyVault/vaults/secrets@2023-07-01' = {
  parent: vault
  name: 'throughline'
  properties: {
    value: secret
  }
}

resource mayRead 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(vault.id, principalId, secretsUser)
  scope: vault
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', secretsUser)
    principalId: principalId
    principalType: 'ServicePrincipal'
  }
}

// Without a version: a new one is taken up by itself.
output secretUri string = shared.properties.secretUri
