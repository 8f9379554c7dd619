//! What is for makers of connectors and flows: profiles, tools, the REST face.

use throughline_wire::profile::COPILOT_STUDIO;
use throughline_wire::profile::list::Selection;

use super::*;

mod tokens;

/// A route of the example without what has no default.
pub(super) fn without_examples(route: &Route) -> Route {
    Route {
        profile: None,
        answers: Answers::AsUpstream,
        tools: Selection::default(),
        token: None,
        ..route.clone()
    }
}

#[test]
fn a_profile_is_named_and_answers_in_json() {
    let route = |text: &str| Config::parse(&format!("{UPSTREAM}{text}"), "t.toml").unwrap().routes.remove(0);
    let plain = route("");
    assert_eq!((plain.profile, plain.answers, plain.tools.is_open()), (None, Answers::AsUpstream, true));
    let studio = route("profile = \"copilot-studio\"\ntools.allow = [\"a*\"]\ntools.deny = [\"ab\"]\n");
    assert_eq!((studio.profile, studio.answers), (Some(&COPILOT_STUDIO), Answers::Json));
    assert_eq!(studio.tools, Selection { allow: vec!["a*".into()], deny: vec!["ab".into()] });
    let lines = errors(&format!("{UPSTREAM}profile = \"copilot\"\ntools.allow = [\"\"]\n"));
    assert_eq!(
        lines,
        [
            "t.toml:3: upstream.profile: \"copilot\" is not \"copilot-studio\"",
            "t.toml:4: upstream.tools.allow: \"\" is not the name of a tool",
        ]
    );
}

#[test]
fn the_rest_face_is_there_unless_it_is_switched_off() {
    assert_eq!(
        parse("").routes[0].rest,
        Rest { enabled: true, tool_errors: ToolErrors::Ok, session_in_query: false }
    );
    let text = "rest.enabled = false\nrest.tool_errors = \"422\"\nrest.session_in_query = true\n";
    let config = Config::parse(&format!("{UPSTREAM}{text}"), "t.toml").unwrap();
    let rest = Rest { enabled: false, tool_errors: ToolErrors::Unprocessable, session_in_query: true };
    assert_eq!(config.routes[0].rest, rest);
}
