//! Files that are looked at while the gateway runs, and what is made of them when they change.
//!
//! Several files are not replaced in one step, so that a look can meet the first one new and the second one old. Only
//! what is still wrong at the next look is wrong; what was made before stays in use meanwhile.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};

/// What stands in the files, in an order of the caller's.
pub type Contents = Vec<Vec<u8>>;

/// What was found when the files were last looked at.
pub struct Reload(Mutex<Seen>);

enum Seen {
    /// What is in use.
    Used(Contents),
    /// Something else that cannot be used, and why.
    Broken(String),
    /// The same, and the operator has been told.
    Told(String),
}

/// What a look comes to.
#[derive(Debug, PartialEq)]
pub enum Look<T, E> {
    /// Nothing is to be done.
    Nothing,
    /// This is to be used from now on.
    New(T),
    /// The operator is to be told that the files cannot be used.
    Wrong(E),
}

impl Reload {
    /// Of files that are in use.
    pub fn new(contents: Contents) -> Self {
        Reload(Mutex::new(Seen::Used(contents)))
    }

    /// Judges what was read, and makes something of it if it is new.
    pub fn look<T, E: Display>(
        &self,
        read: Result<Contents, E>,
        make: impl FnOnce(&Contents) -> Result<T, E>,
    ) -> Look<T, E> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Ok(read), Seen::Used(used)) = (&read, &*seen)
            && read == used
        {
            return Look::Nothing;
        }
        match read.and_then(|read| Ok((make(&read)?, read))) {
            Ok((made, read)) => {
                *seen = Seen::Used(read);
                Look::New(made)
            }
            Err(error) => {
                let text = error.to_string();
                let (next, look) = match &*seen {
                    Seen::Broken(before) if *before == text => (Seen::Told(text), Look::Wrong(error)),
                    Seen::Told(before) if *before == text => return Look::Nothing,
                    _ => (Seen::Broken(text), Look::Nothing),
                };
                *seen = next;
                look
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two files that fit if they are the same.
    fn look(reload: &Reload, read: Result<[&str; 2], &'static str>) -> Look<String, &'static str> {
        let read = read.map(|files| files.map(|file| file.as_bytes().to_vec()).to_vec());
        reload.look(read, |files| match files[0] == files[1] {
            true => Ok(String::from_utf8(files[0].clone()).unwrap()),
            false => Err("they do not fit"),
        })
    }

    #[test]
    fn what_is_wrong_twice_is_told_once_and_what_is_new_is_taken() {
        let reload = Reload::new(vec![b"a".to_vec(), b"a".to_vec()]);
        assert_eq!(look(&reload, Ok(["a", "a"])), Look::Nothing);
        assert_eq!(look(&reload, Ok(["b", "a"])), Look::Nothing, "half of it may be on its way");
        assert_eq!(look(&reload, Ok(["b", "b"])), Look::New("b".to_owned()));
        assert_eq!(look(&reload, Ok(["b", "b"])), Look::Nothing);
        for (read, told) in [
            (Err("cannot be read"), Look::Nothing),
            (Ok(["c", "b"]), Look::Nothing),
            (Ok(["c", "b"]), Look::Wrong("they do not fit")),
            (Ok(["c", "d"]), Look::Nothing),
            (Err("cannot be read"), Look::Nothing),
            (Err("cannot be read"), Look::Wrong("cannot be read")),
            (Ok(["b", "b"]), Look::New("b".to_owned())),
        ] {
            assert_eq!(look(&reload, read), told, "{read:?}");
        }
    }
}
