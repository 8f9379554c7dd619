// Whom the program is toward the registry, the vault and Redis. Assigned by us, so that its rights are there before
// the program is, and both slots are the same.
param name string
param location string
param tags object

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: name
  location: location
  tags: tags
}

output id string = identity.id
output principalId string = identity.properties.principalId
output clientId string = identity.properties.clientId
