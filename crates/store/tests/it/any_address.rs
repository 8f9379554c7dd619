//! What must hold for any text in place of a store's address. Run here on the corpus, and as the fuzz target
//! `store_address`.

use throughline_store::Place;

/// What is shown of an address is one that says the same, on one line; a mistake is told on one line.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Place::parse(text) {
        Ok(place) => {
            let shown = place.to_string();
            let again = Place::parse(&shown).expect("what is shown is an address");
            assert_eq!(again.to_string(), shown);
            assert!(shown.lines().count() == 1 && !shown.contains('@'), "{shown}");
        }
        Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
    }
}

#[test]
fn the_corpus_is_read_or_refused() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/store_address");
    let files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 8);
    for file in files {
        check(&std::fs::read(file).unwrap());
    }
}
