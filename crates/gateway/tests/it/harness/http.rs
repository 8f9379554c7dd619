//! HTTP/1.1 as both ends of a test read it.

use std::io::{self, BufRead, Read};

/// Header lines in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    /// The first value of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// How long a body is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Framing {
    /// `otherwise`: where the headers do not say.
    pub(crate) fn of(headers: &Headers, otherwise: Framing) -> Self {
        match (headers.get("transfer-encoding"), headers.get("content-length")) {
            (Some(_), _) => Framing::Chunked,
            (None, Some(length)) => Framing::Length(length.parse().unwrap()),
            (None, None) => otherwise,
        }
    }

    /// The next piece of the body; None at its end.
    pub(crate) fn piece(&mut self, from: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
        match self {
            Framing::Length(0) => Ok(None),
            Framing::Length(left) => {
                let mut piece = vec![0; *left];
                from.read_exact(&mut piece)?;
                *left = 0;
                Ok(Some(piece))
            }
            Framing::Chunked => {
                let size = line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
                let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
                let mut piece = vec![0; size + 2];
                from.read_exact(&mut piece)?;
                piece.truncate(size);
                Ok((size > 0).then_some(piece))
            }
            Framing::UntilClose => {
                let mut piece = vec![0; 4096];
                let length = from.read(&mut piece)?;
                piece.truncate(length);
                Ok((length > 0).then_some(piece))
            }
        }
    }

    pub(crate) fn whole(&mut self, from: &mut impl BufRead) -> io::Result<Vec<u8>> {
        let mut whole = Vec::new();
        while let Some(piece) = self.piece(from)? {
            whole.extend(piece);
        }
        Ok(whole)
    }
}

/// First line and headers; None where the connection ended before.
pub(crate) fn head(from: &mut impl BufRead) -> io::Result<Option<(String, Headers)>> {
    let Some(first) = line(from)? else { return Ok(None) };
    let mut headers = Headers::default();
    loop {
        let line = line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            return Ok(Some((first, headers)));
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        headers.0.push((name.to_owned(), value.trim().to_owned()));
    }
}

fn line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if from.take(1 << 20).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()))
}
