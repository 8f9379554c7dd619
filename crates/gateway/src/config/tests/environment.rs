//! What the environment says.

use super::*;

#[test]
fn the_environment_overrides_the_file_and_flags_override_both() {
    let variables = [
        ("THROUGHLINE_LISTEN", "127.0.0.1:1"),
        ("THROUGHLINE_ADMIN", "127.0.0.1:2"),
        ("THROUGHLINE_ADMIN_TOKEN", "0123456789abcdef"),
        ("THROUGHLINE_METRICS", "0.0.0.0:3"),
        ("THROUGHLINE_STORE", "memory:"),
        ("THROUGHLINE_KEY_RING_FILE", "/r"),
        ("THROUGHLINE_STATE_DIR", "/s"),
        ("THROUGHLINE_WORKERS", "2"),
        ("THROUGHLINE_ALLOWED_HOSTS", "a.example, B.example:80"),
    ];
    let mut config = parse("listen = \"127.0.0.1:9\"\nworkers = 9\nallowed_hosts = [\"c\"]");
    config.apply(Overrides::from_env(&env(&variables)).unwrap());
    config.apply(Overrides { workers: NonZeroUsize::new(3), stateless: true, ..Overrides::default() });
    assert_eq!((config.listen.port(), config.metrics.unwrap().port()), (1, 3));
    assert_eq!(config.admin, Some(AdminAddress::Tcp("127.0.0.1:2".parse().unwrap())));
    assert_eq!(config.admin_token.unwrap().expose(), "0123456789abcdef");
    assert_eq!(config.store, StoreUrl::Memory);
    assert_eq!(config.key_ring, KeyRingPlace::File("/r".into()));
    assert_eq!(config.state_dir, Some("/s".into()));
    assert_eq!(config.workers, NonZeroUsize::new(3));
    assert_eq!(config.allowed_hosts, ["a.example", "b.example:80"]);
    assert_eq!(config.routes[0].mode, Mode::Stateless);
}

#[test]
fn all_bad_variables_are_reported_at_once_and_empty_ones_are_unset() {
    let variables = [
        ("THROUGHLINE_LISTEN", "localhost:1"),
        ("THROUGHLINE_WORKERS", "many"),
        ("THROUGHLINE_STORE", ""),
        ("THROUGHLINE_STATE_DIR", "~"),
    ];
    assert_eq!(
        Overrides::from_env(&env(&variables)).unwrap_err().to_string(),
        "THROUGHLINE_LISTEN: \"localhost:1\" is not an IP address with a port: write 127.0.0.1:8808, [::1]:8808 or, \
         for all interfaces, 0.0.0.0:8808\n\
         THROUGHLINE_STATE_DIR: \"~\": ~ does not stand for the home directory here: write the whole path\n\
         THROUGHLINE_WORKERS: \"many\" is not a number between 1 and 1024"
    );
    assert_eq!(Overrides::from_env(&env(&[])).unwrap(), Overrides::default());
}

#[test]
fn the_state_directory_is_found_by_the_environment() {
    for (variables, dir) in [
        (&[("STATE_DIRECTORY", "/a:/b"), ("HOME", "/h")][..], Some("/a")),
        (&[("STATE_DIRECTORY", ""), ("XDG_STATE_HOME", "/x"), ("HOME", "/h")], Some("/x/throughline")),
        (&[("XDG_STATE_HOME", "x"), ("HOME", "/h")], Some("/h/.local/state/throughline")),
        (&[("HOME", "")], None),
        (&[], None),
    ] {
        assert_eq!(default_state_dir(&env(variables)), dir.map(PathBuf::from));
    }
}
