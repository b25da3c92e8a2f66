//! The objects of a pickle, read as data: nothing is imported, called or run.
//!
//! Opcodes: <https://docs.python.org/3/library/pickletools.html>, protocols 0 to 5 without those that saved tensors do not use.
//! A pickle comes from anywhere, so what it costs is bounded by its length: objects stand in one list and name each other by
//! their place there, so that taking one from the memo copies no more than a number, and no depth of nesting needs a stack.

use std::collections::HashMap;

/// The place of an object in [`Objects`].
pub(super) type At = usize;

/// An object, as far as tensors need it.
#[derive(Debug)]
pub(super) enum Object {
    /// None, a truth value, a float, bytes, a set: of no use here.
    Other,
    Int(i64),
    Text(String),
    /// Module and name of something that is imported.
    Global(String, String),
    Tuple(Vec<At>),
    List(Vec<At>),
    Dict(Vec<(At, At)>),
    /// What a persistent id stands for.
    Persistent(At),
    /// The result of a call.
    Call {
        callable: At,
        arguments: At,
    },
    /// An object with the state that it is given.
    Build {
        object: At,
        state: At,
    },
}

/// What a pickle made.
#[derive(Debug)]
pub(super) struct Objects {
    all: Vec<Object>,
    /// The object that it is a pickle of.
    pub(super) root: At,
}

impl Objects {
    /// Reads a pickle to its end.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub(super) fn read(pickle: &[u8]) -> Result<Objects, String> {
        let mut machine = Machine {
            pickle,
            at: 0,
            all: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let root = loop {
            let here = machine.at;
            match machine.step() {
                Ok(None) => {}
                Ok(Some(root)) => break root,
                Err(reason) => {
                    return Err(format!("its pickle is damaged at byte {here}: {reason}"));
                }
            }
        };
        Ok(Objects {
            all: machine.all,
            root,
        })
    }

    pub(super) fn get(&self, at: At) -> &Object {
        &self.all[at]
    }

    pub(super) fn int(&self, at: At) -> Option<i64> {
        match self.get(at) {
            Object::Int(value) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn text(&self, at: At) -> Option<&str> {
        match self.get(at) {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn tuple(&self, at: At) -> Option<&[At]> {
        match self.get(at) {
            Object::Tuple(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn global(&self, at: At) -> Option<(&str, &str)> {
        match self.get(at) {
            Object::Global(module, name) => Some((module, name)),
            _ => None,
        }
    }

    /// Callable and arguments of a call.
    pub(super) fn call(&self, at: At) -> Option<(At, At)> {
        match self.get(at) {
            Object::Call {
                callable,
                arguments,
            } => Some((*callable, *arguments)),
            _ => None,
        }
    }
}

struct Machine<'a> {
    pickle: &'a [u8],
    at: usize,
    all: Vec<Object>,
    stack: Vec<At>,
    /// The stack's length at each mark.
    marks: Vec<usize>,
    memo: HashMap<u32, At>,
}

impl<'a> Machine<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(n);
        let bytes = end.and_then(|end| self.pickle.get(self.at..end));
        let bytes = bytes.ok_or_else(|| format!("{n} bytes should follow, and do not"))?;
        self.at += n;
        Ok(bytes)
    }

    /// A number of `N` bytes, without a sign.
    fn number<const N: usize>(&mut self) -> Result<usize, String> {
        let mut whole = [0; 8];
        whole[..N].copy_from_slice(self.bytes(N)?);
        usize::try_from(u64::from_le_bytes(whole)).map_err(|e| e.to_string())
    }

    fn memo_number<const N: usize>(&mut self) -> Result<u32, String> {
        u32::try_from(self.number::<N>()?).map_err(|e| e.to_string())
    }

    /// Bytes after a length of `N` bytes.
    fn counted<const N: usize>(&mut self) -> Result<&'a [u8], String> {
        let length = self.number::<N>()?;
        self.bytes(length)
    }

    fn line(&mut self) -> Result<&'a [u8], String> {
        let rest = &self.pickle[self.at..];
        let end = rest.iter().position(|&b| b == b'\n');
        let line = self.bytes(end.ok_or("a line does not end")? + 1)?;
        let line = &line[..line.len() - 1];
        Ok(line.strip_suffix(b"\r").unwrap_or(line))
    }

    fn push(&mut self, object: Object) {
        self.stack.push(self.all.len());
        self.all.push(object);
    }

    fn push_text(&mut self, bytes: &[u8]) {
        self.push(Object::Text(String::from_utf8_lossy(bytes).into_owned()));
    }

    /// Takes the last object, of those after the last mark.
    fn pop(&mut self) -> Result<At, String> {
        let last = self.top()?;
        self.stack.pop();
        Ok(last)
    }

    fn top(&self) -> Result<At, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let after = self.stack.get(floor..).unwrap_or_default();
        after.last().copied().ok_or_else(empty)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<At>, String> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, n: usize) -> Result<(), String> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push(Object::Tuple(items));
        Ok(())
    }

    fn memo_put(&mut self, key: u32) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn memo_get(&mut self, key: u32) -> Result<(), String> {
        let at = self.memo.get(&key).ok_or("the memo has no such object")?;
        self.stack.push(*at);
        Ok(())
    }

    /// Adds to the dict or list on top; other objects take it and nobody asks for it again.
    fn add(&mut self, items: Vec<At>) -> Result<(), String> {
        let top = self.top()?;
        match &mut self.all[top] {
            Object::List(list) => list.extend(items),
            Object::Dict(dict) => {
                let (pairs, rest) = items.as_chunks::<2>();
                if !rest.is_empty() {
                    return Err("a key has no value".to_string());
                }
                dict.extend(pairs.iter().map(|&[key, value]| (key, value)));
            }
            _ => {}
        }
        Ok(())
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let is_dict = match &self.all[callable] {
            Object::Global(module, name) => {
                module == "collections" && ["OrderedDict", "defaultdict"].contains(&name.as_str())
            }
            _ => false,
        };
        self.push(match is_dict {
            true => Object::Dict(Vec::new()),
            false => Object::Call {
                callable,
                arguments,
            },
        });
        Ok(())
    }

    fn build(&mut self) -> Result<(), String> {
        let (state, object) = (self.pop()?, self.pop()?);
        // A dict's state are its attributes (`_metadata` of a state_dict), no entries.
        match self.all[object] {
            Object::Dict(_) => self.stack.push(object),
            _ => self.push(Object::Build { object, state }),
        }
        Ok(())
    }

    /// The next opcode; the object where it was the last.
    fn step(&mut self) -> Result<Option<At>, String> {
        match self.bytes(1)?[0] {
            // PROTO, FRAME
            0x80 => drop(self.bytes(1)?),
            0x95 => drop(self.bytes(8)?),
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            // POP, POP_MARK, DUP
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            // None, True, False
            b'N' | 0x88 | 0x89 => self.push(Object::Other),
            b'K' => {
                let value = self.number::<1>()?;
                self.push(Object::Int(value as i64));
            }
            b'M' => {
                let value = self.number::<2>()?;
                self.push(Object::Int(value as i64));
            }
            b'J' => {
                let value = self.number::<4>()? as u32;
                self.push(Object::Int(i64::from(value.cast_signed())));
            }
            0x8a => {
                let bytes = self.counted::<1>()?;
                self.push(long(bytes));
            }
            0x8b => {
                let bytes = self.counted::<4>()?;
                self.push(long(bytes));
            }
            b'G' => {
                self.bytes(8)?;
                self.push(Object::Other);
            }
            // Texts, with lengths of 1, 4 and 8 bytes; byte strings are what Python 2 had for texts.
            0x8c | b'U' => {
                let text = self.counted::<1>()?;
                self.push_text(text);
            }
            b'X' | b'T' => {
                let text = self.counted::<4>()?;
                self.push_text(text);
            }
            0x8d => {
                let text = self.counted::<8>()?;
                self.push_text(text);
            }
            // Bytes
            b'C' => {
                self.counted::<1>()?;
                self.push(Object::Other);
            }
            b'B' => {
                self.counted::<4>()?;
                self.push(Object::Other);
            }
            0x8e | 0x96 => {
                self.counted::<8>()?;
                self.push(Object::Other);
            }
            b')' => self.push(Object::Tuple(Vec::new())),
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Object::Tuple(items));
            }
            b']' => self.push(Object::List(Vec::new())),
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Object::List(items));
            }
            b'}' => self.push(Object::Dict(Vec::new())),
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Object::Dict(Vec::new()));
                self.add(items)?;
            }
            // EMPTY_SET, FROZENSET
            0x8f => self.push(Object::Other),
            0x91 => {
                self.pop_to_mark()?;
                self.push(Object::Other);
            }
            // APPEND, SETITEM, APPENDS, SETITEMS, ADDITEMS
            b'a' => {
                let item = self.pop()?;
                self.add(vec![item])?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.add(vec![key, value])?;
            }
            b'e' | b'u' | 0x90 => {
                let items = self.pop_to_mark()?;
                self.add(items)?;
            }
            b'q' => {
                let key = self.memo_number::<1>()?;
                self.memo_put(key)?;
            }
            b'r' => {
                let key = self.memo_number::<4>()?;
                self.memo_put(key)?;
            }
            // MEMOIZE
            0x94 => {
                let key = u32::try_from(self.memo.len()).map_err(|e| e.to_string())?;
                self.memo_put(key)?;
            }
            b'h' => {
                let key = self.memo_number::<1>()?;
                self.memo_get(key)?;
            }
            b'j' => {
                let key = self.memo_number::<4>()?;
                self.memo_get(key)?;
            }
            b'c' => {
                let (module, name) = (text(self.line()?), text(self.line()?));
                self.push(Object::Global(module, name));
            }
            // STACK_GLOBAL
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Object::Text(name), Object::Text(module)) =
                    (&self.all[name], &self.all[module])
                else {
                    return Err("what is imported has no name".to_string());
                };
                let global = Object::Global(short(module), short(name));
                self.push(global);
            }
            // REDUCE, NEWOBJ
            b'R' | 0x81 => self.call()?,
            // NEWOBJ_EX, whose named arguments no tensor has.
            0x92 => {
                self.pop()?;
                self.call()?;
            }
            b'b' => self.build()?,
            // BINPERSID
            b'Q' => {
                let id = self.pop()?;
                self.push(Object::Persistent(id));
            }
            other => {
                return Err(format!(
                    "opcode {other:#04x} is none that saved tensors have"
                ));
            }
        }
        Ok(None)
    }
}

fn empty() -> String {
    "an object is missing".to_string()
}

/// A whole number of any length; one of more than 8 bytes is no size.
fn long(bytes: &[u8]) -> Object {
    let Some(most) = bytes.len().checked_sub(1).filter(|most| *most < 8) else {
        return match bytes {
            [] => Object::Int(0),
            _ => Object::Other,
        };
    };
    let sign = if bytes[most] & 0x80 == 0 { 0 } else { 0xff };
    let mut whole = [sign; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    Object::Int(i64::from_le_bytes(whole))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A name that is imported. From the memo a long text could become a name again and again; no true one is longer.
fn short(name: &str) -> String {
    name.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(pickle: &[u8]) -> Result<Object, String> {
        let mut objects = Objects::read(pickle)?;
        Ok(objects.all.swap_remove(objects.root))
    }

    #[test]
    fn numbers_of_every_width_keep_their_sign() {
        for (pickle, value) in [
            (&b"K\xff."[..], 255),
            (b"M\xff\xff.", 65_535),
            (b"J\xff\xff\xff\xff.", -1),
            (b"\x8a\x00.", 0),
            (b"\x8a\x01\xff.", -1),
            (b"\x8a\x02\xff\x00.", 255),
            (b"\x8a\x08\0\0\0\0\0\0\0\x80.", i64::MIN),
        ] {
            let Object::Int(found) = root(pickle).unwrap() else {
                panic!("{pickle:?} is a number");
            };
            assert_eq!(found, value);
        }
        assert!(matches!(root(b"\x8a\x09123456789."), Ok(Object::Other)));
    }

    #[test]
    fn what_contradicts_itself_is_named_with_its_place() {
        for (pickle, part) in [
            (&b""[..], "byte 0: 1 bytes should follow"),
            (b".", "an object is missing"),
            (b"(.", "an object is missing"),
            (b"N(0.", "an object is missing"),
            (b"t.", "a mark is missing"),
            (b"h\x07.", "the memo"),
            (b"X\xff\xff\xff\xffabc.", "4294967295 bytes should follow"),
            (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "should follow"),
            (b"}(Nu.", "a key has no value"),
            (b"ctorch", "a line does not end"),
            (b"NN\x93.", "has no name"),
            (b"i.", "0x69"),
        ] {
            let reason = root(pickle).unwrap_err();
            assert!(reason.contains(part), "expected {part}, got {reason}");
        }
    }

    #[test]
    fn nesting_and_doubling_cost_no_more_than_the_bytes() {
        // A tuple in a tuple, a million times; then one that holds itself twice over, which would be 2^64 objects.
        let mut deep = b"N".to_vec();
        deep.resize(1_000_001, 0x85);
        deep.push(b'.');
        assert_eq!(Objects::read(&deep).unwrap().all.len(), 1_000_001);
        let mut doubled = b"N".to_vec();
        (0..64).for_each(|_| doubled.extend(b"q\0h\0\x86"));
        doubled.push(b'.');
        assert_eq!(Objects::read(&doubled).unwrap().all.len(), 65);
    }
}
