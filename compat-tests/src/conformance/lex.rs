//! The words of the case language: texts, numbers, values, bytes.

use std::time::Duration;

use super::message::{RawBytes, Value};
use super::text::{Piece, Text};

/// A part of a line, or what is wrong with it.
pub(super) type Parsed<T> = Result<T, String>;

/// What is left of a line. Each method takes what its name says, and the spaces behind it.
pub(super) struct Cursor<'a> {
    pub(super) rest: &'a str,
}

impl<'a> Cursor<'a> {
    /// Appends a value, as often as it says.
    pub(super) fn value(&mut self, out: &mut Vec<Value>) -> Parsed<()> {
        let kind = self.rest.chars().next().ok_or("a value is missing")?;
        self.rest = &self.rest[kind.len_utf8()..];
        let value = match kind {
            't' => Value::Text(self.text()?),
            'b' => Value::Blob(self.text()?),
            's' => Value::Iso8601(self.text()?),
            'n' => Value::Null,
            'i' => Value::Integer(self.digits()?),
            'u' => Value::UnixTime(self.digits()?),
            'B' => Value::Boolean(self.digits()?),
            'f' => Value::Float(self.digits()?),
            other => return Err(format!("no value begins with {other}")),
        };
        let mut count = 1;
        if self.rest.starts_with('*') {
            self.rest = &self.rest[1..];
            count = self.digits()?;
        }
        self.skip_space();
        out.extend(std::iter::repeat_n(value, count));
        Ok(())
    }

    /// Hexadecimal bytes and encoded texts, up to the end.
    pub(super) fn raw(&mut self) -> Parsed<Vec<RawBytes>> {
        let mut parts = Vec::new();
        let mut bytes = Vec::new();
        while !self.at_end() {
            if let Some(rest) = self.rest.strip_prefix("text\"") {
                self.rest = &self.rest[self.rest.len() - rest.len() - 1..];
                parts.push(RawBytes::Bytes(std::mem::take(&mut bytes)));
                parts.push(RawBytes::Text(self.text()?));
                continue;
            }
            let digits = self.word()?;
            if !digits.is_ascii() || digits.len() % 2 != 0 {
                return Err(format!("not hexadecimal: {digits}"));
            }
            for i in (0..digits.len()).step_by(2) {
                let byte = u8::from_str_radix(&digits[i..i + 2], 16);
                bytes.push(byte.map_err(|_| format!("not hexadecimal: {digits}"))?);
            }
        }
        parts.push(RawBytes::Bytes(bytes));
        parts.retain(|part| !matches!(part, RawBytes::Bytes(bytes) if bytes.is_empty()));
        Ok(parts)
    }

    /// A text: literals and repetitions with `+` in between.
    pub(super) fn text(&mut self) -> Parsed<Text> {
        self.skip_space();
        let mut pieces = Vec::new();
        loop {
            if let Some(rest) = self.rest.strip_prefix("rep(") {
                self.rest = rest;
                let count = self.digits()?;
                if !self.take(',') {
                    return Err("rep(count,\"text\")".to_owned());
                }
                match self.quoted()?.as_slice() {
                    [Piece::Literal(bytes)] => pieces.push(Piece::Repeat(count, bytes.clone())),
                    _ => return Err("what is repeated is one literal".to_owned()),
                }
                if !self.take(')') {
                    return Err("`)` is missing".to_owned());
                }
            } else {
                pieces.extend(self.quoted()?);
            }
            let ahead = self.rest;
            self.skip_space();
            if !self.take('+') {
                // A `*` must follow its value without a space, so the space stays in sight.
                self.rest = ahead;
                if !self.rest.starts_with('*') {
                    self.skip_space();
                }
                return Ok(Text(pieces));
            }
        }
    }

    /// One literal in quotes, with the names in it.
    pub(super) fn quoted(&mut self) -> Parsed<Vec<Piece>> {
        let mut chars = self.rest.char_indices();
        if chars.next().map(|(_, c)| c) != Some('"') {
            return Err(format!("a text is missing before: {}", self.rest));
        }
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut buffer = [0; 4];
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    if !literal.is_empty() || pieces.is_empty() {
                        pieces.push(Piece::Literal(literal));
                    }
                    return Ok(pieces);
                }
                '$' => {
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    match chars.next().map(|(_, c)| c) {
                        Some('d') if chars.next().map(|(_, c)| c) == Some('b') => {
                            pieces.push(Piece::Database);
                        }
                        Some(c) if c.is_ascii_uppercase() => pieces.push(Piece::Address(c)),
                        _ => return Err("`$` is followed by db or a node".to_owned()),
                    }
                }
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => literal.push(b'\n'),
                    Some('t') => literal.push(b'\t'),
                    Some(c @ ('"' | '\\' | '$')) => literal.push(c as u8),
                    Some('x') => {
                        let digit = |next: Option<(usize, char)>| {
                            next.and_then(|(_, c)| c.to_digit(16)).map(|d| d as u8)
                        };
                        match (digit(chars.next()), digit(chars.next())) {
                            (Some(high), Some(low)) => literal.push(high << 4 | low),
                            _ => return Err("\\x wants two digits".to_owned()),
                        }
                    }
                    _ => return Err("unknown escape".to_owned()),
                },
                c => literal.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes()),
            }
        }
        Err("a text does not end".to_owned())
    }

    pub(super) fn list<T>(&mut self, item: impl Fn(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut list = Vec::new();
        while !self.at_end() {
            list.push(item(self)?);
        }
        Ok(list)
    }

    pub(super) fn node(&mut self) -> Parsed<char> {
        match self.take_word("at") {
            true => self.letter(),
            false => Ok('L'),
        }
    }

    pub(super) fn letter(&mut self) -> Parsed<char> {
        let word = self.word()?;
        match word.chars().next() {
            Some(c) if c.is_ascii_uppercase() && word.len() == 1 => Ok(c),
            _ => Err(format!("a node is one letter, not {word}")),
        }
    }

    pub(super) fn seconds(&mut self) -> Parsed<Duration> {
        let word = self.word()?;
        let seconds = word.strip_suffix('s').and_then(|n| n.parse().ok());
        seconds
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .ok_or(format!("not a time: {word}"))
    }

    pub(super) fn number<N: std::str::FromStr>(&mut self) -> Parsed<N> {
        parse_number(self.word()?)
    }

    /// A number right here, up to what cannot belong to one.
    pub(super) fn digits<N: std::str::FromStr>(&mut self) -> Parsed<N> {
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || matches!(c, '*' | ',' | ')' | '|'))
            .unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        parse_number(digits)
    }

    /// What stands before a colon, if this is a prefix.
    pub(super) fn prefix(&mut self) -> Option<&'a str> {
        let end = self.rest.find(|c: char| c.is_whitespace())?;
        let prefix = self.rest[..end].strip_suffix(':')?;
        self.rest = &self.rest[end..];
        self.skip_space();
        Some(prefix)
    }

    pub(super) fn word(&mut self) -> Parsed<&'a str> {
        let end = self
            .rest
            .find(char::is_whitespace)
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.skip_space();
        match word {
            "" => Err("something is missing at the end".to_owned()),
            word => Ok(word),
        }
    }

    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let ahead = self.rest;
        if self.word() == Ok(word) {
            return true;
        }
        self.rest = ahead;
        false
    }

    pub(super) fn take(&mut self, c: char) -> bool {
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                self.skip_space();
                true
            }
            None => false,
        }
    }

    pub(super) fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    pub(super) fn at_end(&mut self) -> bool {
        self.skip_space();
        self.rest.is_empty() || self.rest.starts_with('#')
    }

    pub(super) fn end(&mut self) -> Parsed<()> {
        match self.at_end() {
            true => Ok(()),
            false => Err(format!("too much: {}", self.rest)),
        }
    }
}

/// A number, from all of a word.
pub(super) fn parse_number<N: std::str::FromStr>(digits: &str) -> Parsed<N> {
    digits
        .parse()
        .map_err(|_| format!("not a number: {digits}"))
}
