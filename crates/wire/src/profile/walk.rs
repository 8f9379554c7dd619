//! Where a schema holds schemas. A property may be called `$ref`, and a default may hold one: neither is a keyword.

use serde_json::{Map, Value};

/// What the value of a keyword is.
pub(super) enum Holds {
    /// A schema, or a list of schemas.
    Schemas,
    /// A schema under each name.
    Named,
    /// No schema.
    None,
}

pub(super) fn holds(keyword: &str) -> Holds {
    match keyword {
        "items"
        | "additionalItems"
        | "additionalProperties"
        | "unevaluatedItems"
        | "unevaluatedProperties"
        | "contains"
        | "propertyNames"
        | "not"
        | "if"
        | "then"
        | "else"
        | "allOf"
        | "anyOf"
        | "oneOf"
        | "prefixItems"
        | "contentSchema" => Holds::Schemas,
        // The values of `dependencies` may be lists of names, which are no schemas and have none in them.
        "properties" | "patternProperties" | "dependentSchemas" | "dependencies" | "$defs"
        | "definitions" => Holds::Named,
        _ => Holds::None,
    }
}

/// Calls `visit` for the schemas directly inside one.
pub(super) fn each_inside(schema: &mut Map<String, Value>, visit: &mut dyn FnMut(&mut Value)) {
    for (keyword, value) in schema {
        match (holds(keyword), value) {
            (Holds::Schemas, Value::Array(schemas)) => schemas.iter_mut().for_each(&mut *visit),
            (Holds::Schemas, schema) => visit(schema),
            (Holds::Named, Value::Object(named)) => named.values_mut().for_each(&mut *visit),
            _ => {}
        }
    }
}

/// Calls `visit` for every schema that is an object, the innermost first.
pub(super) fn inside_out(schema: &mut Value, visit: &mut dyn FnMut(&mut Map<String, Value>)) {
    if let Value::Object(object) = schema {
        each_inside(object, &mut |inner| inside_out(inner, visit));
        visit(object);
    }
}
