//! Profiles: golden files for each kind of rewrite, and the promise that nothing is refused that was accepted.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};
use throughline_wire::profile::list::{Reason, Selection, list};
use throughline_wire::profile::{
    COPILOT_STUDIO, OPENAPI_3_1, Profile, ROUTE_PROFILES, Rewrite, SWAGGER_2_0, names, results,
};

const ALL: [&Profile; 3] = [&COPILOT_STUDIO, &SWAGGER_2_0, &OPENAPI_3_1];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/profile")
}

/// `NAME.json` is a schema, `NAME.PROFILE.json` what becomes of it. `THROUGHLINE_GOLDEN=write` writes the latter anew,
/// to be read before it is committed.
#[test]
fn each_rewrite_has_its_golden_file() {
    let write = std::env::var("THROUGHLINE_GOLDEN").is_ok_and(|value| value == "write");
    let mut seen = 0;
    for entry in fs::read_dir(golden()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if ALL.iter().any(|profile| name.ends_with(profile.name)) {
            continue;
        }
        seen += 1;
        let schema: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for profile in ALL {
            let (rewritten, changes) = profile.schema(&schema);
            let shown = format!(
                "{}\n",
                serde_json::to_string_pretty(&json!({ "schema": rewritten, "changes": changes.to_string() }))
                    .unwrap()
            );
            let file = golden().join(format!("{name}.{}.json", profile.name));
            if write {
                fs::write(&file, &shown).unwrap();
            }
            // What was brought there is there: a gateway behind a gateway changes nothing.
            let (again, changes) = profile.schema(&rewritten);
            assert_eq!((&again, changes.to_string()), (&rewritten, String::new()), "{}", file.display());
            let expected = fs::read_to_string(&file).unwrap();
            assert_eq!(shown, expected, "{}", file.display());
        }
    }
    assert!(seen >= 9, "only {seen}");
}

#[test]
fn every_profile_has_its_own_name() {
    for profile in ROUTE_PROFILES {
        assert_eq!(Profile::named(profile.name), Some(*profile));
    }
    assert_eq!(Profile::named("openapi-3.1"), None, "not for a route");
}

#[test]
fn definitions_that_double_at_every_step_stay_small() {
    let mut defs = Map::new();
    for level in 0..40 {
        let next = json!({ "$ref": format!("#/$defs/l{}", level + 1) });
        defs.insert(format!("l{level}"), json!({ "type": "object", "properties": { "a": next, "b": next } }));
    }
    let schema =
        json!({ "type": "object", "properties": { "root": { "$ref": "#/$defs/l0" } }, "$defs": defs });
    for profile in ALL {
        let (rewritten, changes) = profile.schema(&schema);
        let len = rewritten.to_string().len();
        assert!(len < 1 << 20, "{len}");
        assert!(changes.of(Rewrite::Opened) > 0);
    }
}

#[test]
fn names_that_fit_are_kept_and_others_are_short_stable_and_different() {
    for kept in ["search", "get-Weather_2", &"a".repeat(64)] {
        assert_eq!(names::short(kept, 64), kept);
    }
    let long = |end: &str| format!("{}{end}", "very_long_tool_name_".repeat(5));
    let (one, two) = (long("one"), long("two"));
    let (short_one, short_two) = (names::short(&one, 64), names::short(&two, 64));
    assert_ne!(short_one, short_two);
    // As it was when this was written: another release must give the same name.
    assert_eq!(short_one, "very_long_tool_name_very_long_tool_name_very_long_tool__clmsntxq");
    for odd in ["files/read", "a.b", "größe", "", "with space"] {
        let short = names::short(odd, 64);
        assert!(short.len() <= 64 && names::may_be_short(&short), "{short}");
        assert!(short.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')), "{short}");
    }
    assert!(!names::may_be_short("search") && !names::may_be_short("list_everything"));
}

fn tools(count: usize) -> Vec<Value> {
    (0..count)
        .map(|n| json!({ "name": format!("tool{n}"), "inputSchema": { "type": "object", "properties": {} } }))
        .collect()
}

#[test]
fn a_list_is_no_longer_than_the_client_takes() {
    let listed = list(&COPILOT_STUDIO, &Selection::default(), tools(130));
    assert_eq!(listed.tools.len(), 128);
    assert_eq!(
        listed.left_out,
        [("tool128".to_owned(), Reason::TooMany), ("tool129".to_owned(), Reason::TooMany)]
    );
    // What was chosen does not push out what was not.
    let selection = Selection {
        allow: vec!["tool1*".into(), "tool128".into()],
        deny: vec!["tool1".into(), "tool10*".into()],
    };
    let listed = list(&COPILOT_STUDIO, &selection, tools(130));
    let names: Vec<_> = listed.tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 29, "{names:?}");
    assert!(names.contains(&"tool128") && !names.contains(&"tool1") && !names.contains(&"tool104"));
    assert_eq!(listed.left_out, []);
}

#[test]
fn a_list_is_no_larger_than_the_client_takes() {
    let large = |name: &str| json!({ "name": name, "inputSchema": { "type": "object", "properties": {}, "default": "x".repeat(300_000) } });
    let listed =
        list(&COPILOT_STUDIO, &Selection::default(), vec![large("a"), large("b"), json!({ "name": "c" })]);
    assert_eq!(listed.left_out, [("b".to_owned(), Reason::TooLarge)]);
    assert_eq!(listed.tools.len(), 2);
    assert_eq!(
        listed.tools[1],
        json!({ "name": "c", "inputSchema": { "type": "object", "properties": {} } })
    );
}

#[test]
fn what_nobody_can_call_is_left_out() {
    let twice = json!({ "name": "twice", "inputSchema": { "type": "object", "properties": {} } });
    let given = vec![twice.clone(), twice.clone(), json!({ "title": "no name" }), json!(7)];
    let listed = list(&COPILOT_STUDIO, &Selection::default(), given);
    assert_eq!(listed.tools, [twice]);
    let reasons: Vec<_> = listed.left_out.iter().map(|(_, reason)| *reason).collect();
    assert_eq!(reasons, [Reason::SameName, Reason::NoName, Reason::NoName]);
}

#[test]
fn members_that_nothing_is_known_of_stay() {
    let tool = json!({
        "name": "files/read", "title": "Read", "description": "d".repeat(2000), "annotations": { "readOnlyHint": true },
        "inputSchema": { "type": "object", "properties": {} }, "x": [1.0, 1e30], "_meta": { "a": null },
    });
    let listed = list(&COPILOT_STUDIO, &Selection::default(), vec![tool.clone()]);
    let shown = &listed.tools[0];
    assert_eq!(shown["description"].as_str().unwrap().chars().count(), 1024);
    assert_eq!(listed.renamed, [(shown["name"].as_str().unwrap().to_owned(), "files/read".to_owned())]);
    for same in ["title", "annotations", "x", "_meta", "inputSchema"] {
        assert_eq!(shown[same], tool[same]);
    }
    assert_eq!(listed.changed[0].1.to_string(), "1 descriptions cut, 1 names shortened");
}

fn response(result: Value) -> Vec<u8> {
    json!({ "jsonrpc": "2.0", "id": "3", "result": result }).to_string().into_bytes()
}

#[test]
fn a_result_is_cut_with_a_notice_that_says_how_much_there_was() {
    let text = "\"quoted\"\n\u{1}\u{e9}".repeat(5000);
    let given = response(
        json!({ "content": [{ "type": "text", "text": "first" }, { "type": "text", "text": text }, { "type": "text", "text": "never" }], "isError": false }),
    );
    for most in [2000, 10_000, 50_000] {
        let cut = results::shortened(&given, most).unwrap();
        assert!(cut.len() <= most && cut.len() > most - 64, "{} of {most}", cut.len());
        let cut: Value = serde_json::from_slice(&cut).unwrap();
        let content = cut["result"]["content"].as_array().unwrap();
        assert_eq!(
            (content.len(), &content[0]["text"], &cut["id"], &cut["result"]["isError"]),
            (3, &json!("first"), &json!("3"), &json!(false))
        );
        assert!(text.starts_with(content[1]["text"].as_str().unwrap()));
        let notice = content[2]["text"].as_str().unwrap();
        assert!(
            notice.contains(&format!("has {} bytes, and this client takes {most}", given.len())),
            "{notice}"
        );
    }
}

#[test]
fn other_kinds_of_result_are_cut_too() {
    let rows: Vec<Value> = (0..5000).map(|n| json!({ "row": n })).collect();
    let structured = response(json!({ "structuredContent": { "rows": rows } }));
    let resource = response(
        json!({ "contents": [{ "uri": "file:///a", "text": "x".repeat(5000) }, { "uri": "file:///b", "blob": "eA==" }] }),
    );
    let prompt = response(
        json!({ "messages": [{ "role": "assistant", "content": { "type": "text", "text": "x".repeat(5000) } }] }),
    );
    let image = response(
        json!({ "content": [{ "type": "image", "data": "x".repeat(5000), "mimeType": "image/png" }] }),
    );
    for given in [&structured, &resource, &prompt, &image] {
        let cut = results::shortened(given, 3000).unwrap();
        let text = String::from_utf8(cut).unwrap();
        assert!(text.len() <= 3000 && text.contains("[Cut by the gateway"), "{text}");
        assert!(!text.contains("structuredContent"));
    }
    for other in [response(json!({ "resources": ["x".repeat(5000)] })), b"{}".to_vec(), b"no".to_vec()] {
        assert_eq!(results::shortened(&other, 3000), None);
    }
}

/// Schemas of everything that the rewrites know, small enough that values meet.
fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({ "type": "string", "minLength": 1 })),
        Just(json!({ "type": ["string", "null"], "maxLength": 2 })),
        Just(json!({ "type": ["integer", "string"] })),
        Just(json!({ "type": "integer", "exclusiveMinimum": 0, "maximum": 3 })),
        Just(json!({ "type": "number", "exclusiveMaximum": 2, "minimum": 0.5 })),
        Just(json!({ "enum": ["a", 1, null] })),
        Just(json!({ "type": "string", "enum": ["a", "b"] })),
        Just(json!({ "const": "a" })),
        Just(json!({ "const": null })),
        Just(json!({ "type": "boolean" })),
        Just(json!({ "type": "null" })),
        Just(json!({})),
        Just(json!(true)),
        Just(json!(false)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let properties = || prop::collection::btree_map("[abc]", inner.clone(), 0..3).prop_map(|map| {
            Value::Object(map.into_iter().collect())
        });
        let required = || prop::collection::btree_set("[abc]", 0..2);
        let object = (properties(), required(), 0..5_u8, inner.clone());
        let object = object.prop_map(|(properties, required, more, schema)| {
            let mut object = json!({ "type": "object", "properties": properties, "required": required });
            match more {
                0 => object["additionalProperties"] = json!(false),
                1 => object["additionalProperties"] = schema,
                2 => object["patternProperties"] = json!({ "^[ab]": schema }),
                3 => {
                    object["patternProperties"] = json!({ "^c": schema });
                    object["additionalProperties"] = json!(false);
                }
                _ => {
                    object.as_object_mut().expect("an object").remove("type");
                }
            }
            object
        });
        let refs = prop_oneof![Just("#/$defs/a"), Just("#/$defs/b"), Just("#")];
        let reference = (refs, inner.clone()).prop_map(|(to, beside)| match beside {
            Value::Object(mut beside) if !beside.contains_key("$ref") => {
                beside.insert("$ref".into(), to.into());
                json!({ "type": "object", "properties": { "a": beside } })
            }
            _ => json!({ "properties": { "b": { "$ref": to } } }),
        });
        let several = || prop::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            3 => object,
            1 => reference,
            1 => several().prop_map(|all| json!({ "allOf": all })),
            2 => several().prop_map(|any| json!({ "anyOf": any })),
            2 => several().prop_map(|one| json!({ "oneOf": one })),
            1 => (several(), inner.clone()).prop_map(|(first, rest)| json!({ "type": "array", "prefixItems": first, "items": rest })),
            1 => inner.clone().prop_map(|items| json!({ "type": "array", "items": items, "minItems": 1 })),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| json!({ "if": a, "then": b })),
            1 => inner.clone().prop_map(|a| json!({ "not": a })),
            1 => (inner.clone(), several()).prop_map(|(a, any)| match a {
                Value::Object(mut a) => { a.insert("anyOf".into(), any.into()); Value::Object(a) }
                _ => json!({ "anyOf": any }),
            }),
        ]
    })
}

/// Values that such a schema may accept.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!("a")),
        Just(json!("b")),
        Just(json!("")),
        Just(json!("abc")),
        Just(json!(0)),
        Just(json!(1)),
        Just(json!(1.0)),
        Just(json!(0.5)),
        Just(json!(2)),
        Just(json!(4)),
        Just(Value::Null),
        Just(json!(true)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            3 => prop::collection::btree_map("[abc]", inner.clone(), 0..3).prop_map(|map| Value::Object(map.into_iter().collect())),
            1 => prop::collection::vec(inner, 0..3).prop_map(Value::Array),
        ]
    })
}

/// The schema in the words of a dialect that has no `nullable`.
fn with_null(schema: &mut Value, keyword: &str) {
    match schema {
        Value::Object(object) => {
            // A property of that name holds a schema, never a boolean.
            let nullable = object.remove(keyword).is_some_and(|value| value == true);
            object.values_mut().for_each(|inner| with_null(inner, keyword));
            if nullable {
                *schema = json!({ "anyOf": [schema.take(), { "type": "null" }] });
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|inner| with_null(inner, keyword)),
        _ => {}
    }
}

#[test]
fn what_a_rewritten_schema_refuses_the_original_refuses_too() {
    let mut runner = TestRunner::new(Config { cases: 1500, failure_persistence: None, ..Config::default() });
    let definitions = (schemas(), schemas());
    let root = (schemas(), definitions, prop::collection::vec(values(), 40));
    let accepted = std::cell::Cell::new(0_usize);
    let refused = std::cell::Cell::new(0_usize);
    runner
        .run(&root, |(mut schema, (a, b), values)| {
            let Some(root) = schema.as_object_mut() else { return Ok(()) };
            // Definitions that are nothing but a reference to themselves have no meaning.
            let wrapped = |schema: Value| json!({ "type": "object", "properties": { "a": schema } });
            root.insert("$defs".into(), json!({ "a": wrapped(a), "b": wrapped(b) }));
            let original =
                jsonschema::validator_for(&schema).map_err(|e| TestCaseError::fail(e.to_string()))?;
            for profile in ALL {
                let (mut rewritten, _) = profile.schema(&schema);
                with_null(&mut rewritten, profile.nullable);
                let validator = jsonschema::validator_for(&rewritten)
                    .map_err(|e| TestCaseError::fail(format!("{e} in {rewritten}")))?;
                for value in values.iter().filter(|value| value.is_object()) {
                    if original.is_valid(value) {
                        accepted.set(accepted.get() + 1);
                        prop_assert!(
                            validator.is_valid(value),
                            "{}: {value} fits {schema} and not {rewritten}",
                            profile.name
                        );
                    } else if !validator.is_valid(value) {
                        refused.set(refused.get() + 1);
                    }
                }
            }
            Ok(())
        })
        .unwrap();
    assert!(accepted.get() > 2000, "only {} values were accepted at all", accepted.get());
    assert!(refused.get() > 2000, "only {} values were refused: the schemas say nothing", refused.get());
}
