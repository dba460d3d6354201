//! Tables in a document that people write by hand: between two marker lines, and nowhere else.

use std::fs;
use std::io;
use std::path::Path;

/// Replaces what stands between `<!-- bench NAME -->` and `<!-- end NAME -->` in a file.
///
/// # Errors
/// The file cannot be read or written, or has no such markers, in this order.
pub(crate) fn replace(file: &Path, name: &str, text: &str) -> io::Result<()> {
    let old = fs::read_to_string(file)?;
    let new = replaced(&old, name, text)
        .ok_or_else(|| io::Error::other(format!("{}: no markers {name:?}", file.display())))?;
    fs::write(file, new)
}

fn replaced(document: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (
        format!("<!-- bench {name} -->\n"),
        format!("<!-- end {name} -->\n"),
    );
    let (before, rest) = document.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n{}\n\n{end}{after}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_of_that_name_changes() {
        let document =
            "a\n<!-- bench x -->\nold\n<!-- end x -->\nb\n<!-- bench y -->\n<!-- end y -->\n";
        let expected =
            "a\n<!-- bench x -->\n\nnew\n\n<!-- end x -->\nb\n<!-- bench y -->\n<!-- end y -->\n";
        assert_eq!(
            replaced(document, "x", "new\n\n").as_deref(),
            Some(expected)
        );
        assert_eq!(replaced(expected, "x", "new").as_deref(), Some(expected));
    }

    #[test]
    fn a_document_without_the_markers_is_left_alone() {
        assert_eq!(replaced("text\n", "x", "new"), None);
        let swapped = "<!-- end x -->\n<!-- bench x -->\n";
        assert_eq!(replaced(swapped, "x", "new"), None);
    }
}
