//! The corpora of the fuzz targets (see `fuzz/`), replayed.

use std::path::Path;

use crate::any_input;

#[test]
fn nothing_in_a_corpus_breaks_its_parser() {
    type Check = fn(&[u8]);
    let all: [(&str, Check); 6] = [
        ("message_edits", any_input::message_edits),
        ("header_value", any_input::header_value),
        ("loss_verdict", any_input::loss_verdict),
        ("session_id", any_input::session_id),
        ("key_ring", any_input::key_ring),
        ("to_modern", any_input::to_modern),
    ];
    for (name, check) in all {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
        let mut seen = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            check(&std::fs::read(entry.unwrap().path()).unwrap());
            seen += 1;
        }
        assert!(seen >= 5, "{name}: only {seen} files");
        // A corpus of one parser is as good as any for the others.
        for other in ["envelope", "sse"] {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(other);
            for entry in std::fs::read_dir(directory).unwrap() {
                check(&std::fs::read(entry.unwrap().path()).unwrap());
            }
        }
    }
}
