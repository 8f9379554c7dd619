//! What must hold for any bytes in place of a record. Run here on the corpus, and as the fuzz target `record`.

use throughline_store::Record;

/// What is read is written so that it reads the same.
pub(crate) fn check(data: &[u8]) {
    let Ok(record) = serde_json::from_slice::<Record>(data) else { return };
    let text = serde_json::to_vec(&record).expect("a record is JSON");
    assert_eq!(serde_json::from_slice::<Record>(&text).expect("our own"), record);
}

#[test]
fn the_corpus_is_read_or_refused() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/record");
    let files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 5);
    for file in files {
        check(&std::fs::read(file).unwrap());
    }
}
