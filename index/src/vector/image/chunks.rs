//! The stream of an image: chunks with checksums around numbers, texts and values.

use std::io::{ErrorKind, Read, Write};

use crc32fast::Hasher;

use crate::error::ImageError;
use crate::filter::postings::MAX_TEXT;
use crate::filter::value::{Number, Value};

const MAGIC: [u8; 8] = *b"MIRAVIDX";
const VERSION: u32 = 5;
const CHUNK: usize = 256 * 1024;
/// Longest name of a field: metadata is bounded before it comes here.
const MAX_NAME: usize = 1 << 20;

/// Cuts a stream into chunks with checksums.
pub(super) struct ChunkWriter<'a, W: Write> {
    writer: &'a mut W,
    crc: Hasher,
    chunk: Vec<u8>,
}

impl<'a, W: Write> ChunkWriter<'a, W> {
    pub(super) fn create(writer: &'a mut W) -> Result<Self, ImageError> {
        let mut sink = ChunkWriter { writer, crc: Hasher::new(), chunk: Vec::with_capacity(CHUNK) };
        sink.write(&MAGIC)?;
        sink.write(&VERSION.to_le_bytes())?;
        Ok(sink)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.crc.update(bytes);
        Ok(self.writer.write_all(bytes)?)
    }

    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<(), ImageError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() == CHUNK {
                self.flush()?;
            }
        }
        Ok(())
    }

    pub(super) fn u32(&mut self, value: u32) -> Result<(), ImageError> {
        self.put(&value.to_le_bytes())
    }

    pub(super) fn text(&mut self, text: &str) -> Result<(), ImageError> {
        self.u32(text.len() as u32)?;
        self.put(text.as_bytes())
    }

    pub(super) fn value(&mut self, value: &Value) -> Result<(), ImageError> {
        match value {
            Value::Bool(value) => self.put(&[0, u8::from(*value)]),
            Value::Number(number) => {
                let (form, bits) = number.to_parts();
                self.put(&[1 + form])?;
                self.put(&bits.to_le_bytes())
            }
            Value::Text(text) => {
                self.put(&[4])?;
                self.text(text)
            }
        }
    }

    fn flush(&mut self) -> Result<(), ImageError> {
        let chunk = std::mem::take(&mut self.chunk);
        self.write(&(chunk.len() as u32).to_le_bytes())?;
        self.write(&chunk)?;
        let crc = self.crc.clone().finalize();
        self.write(&crc.to_le_bytes())?;
        self.chunk = chunk;
        self.chunk.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(), ImageError> {
        if !self.chunk.is_empty() {
            self.flush()?;
        }
        self.flush()?; // The empty chunk is the end.
        Ok(self.writer.flush()?)
    }
}

/// Reads chunks and hands out only bytes whose checksum held.
pub(super) struct ChunkReader<R: Read> {
    reader: R,
    crc: Hasher,
    chunk: Vec<u8>,
    used: usize,
}

impl<R: Read> ChunkReader<R> {
    pub(super) fn open(reader: R) -> Result<Self, ImageError> {
        let mut source = ChunkReader { reader, crc: Hasher::new(), chunk: Vec::new(), used: 0 };
        let mut magic = [0; 8];
        source.read(&mut magic)?;
        if magic != MAGIC {
            return Err(ImageError::NotAnImage);
        }
        match source.read_u32()? {
            VERSION => Ok(source),
            other => Err(ImageError::UnsupportedVersion(other)),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), ImageError> {
        self.reader.read_exact(bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => ImageError::Truncated,
            _ => ImageError::Io(error),
        })?;
        self.crc.update(bytes);
        Ok(())
    }

    fn read_u32(&mut self) -> Result<u32, ImageError> {
        let mut bytes = [0; 4];
        self.read(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn next_chunk(&mut self) -> Result<(), ImageError> {
        let length = self.read_u32()? as usize;
        if length > CHUNK {
            return Err(ImageError::Damaged("length of a chunk"));
        }
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.resize(length, 0);
        self.read(&mut chunk)?;
        let expected = self.crc.clone().finalize();
        if self.read_u32()? != expected {
            return Err(ImageError::Damaged("checksum"));
        }
        (self.chunk, self.used) = (chunk, 0);
        Ok(())
    }

    pub(super) fn take(&mut self, mut bytes: &mut [u8]) -> Result<(), ImageError> {
        while !bytes.is_empty() {
            if self.used == self.chunk.len() {
                self.next_chunk()?;
                if self.chunk.is_empty() {
                    return Err(ImageError::Damaged("content ends early"));
                }
            }
            let now = bytes.len().min(self.chunk.len() - self.used);
            bytes[..now].copy_from_slice(&self.chunk[self.used..self.used + now]);
            self.used += now;
            bytes = &mut bytes[now..];
        }
        Ok(())
    }

    pub(super) fn u8(&mut self) -> Result<u8, ImageError> {
        let mut byte = [0];
        self.take(&mut byte)?;
        Ok(byte[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, ImageError> {
        let mut bytes = [0; 4];
        self.take(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn u64(&mut self) -> Result<u64, ImageError> {
        let mut bytes = [0; 8];
        self.take(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(super) fn text(&mut self, most: usize) -> Result<String, ImageError> {
        let length = self.u32()? as usize;
        if length > most.min(MAX_NAME) {
            return Err(ImageError::Damaged("length of a text"));
        }
        let mut bytes = vec![0; length];
        self.take(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| ImageError::Damaged("text"))
    }

    pub(super) fn value(&mut self) -> Result<Value, ImageError> {
        match self.u8()? {
            0 => Ok(Value::Bool(self.u8()? != 0)),
            form @ 1..=3 => {
                let number = Number::from_parts(form - 1, self.u64()?);
                number.map(Value::Number).ok_or(ImageError::Damaged("number"))
            }
            4 => Ok(Value::Text(self.text(MAX_TEXT)?.into())),
            _ => Err(ImageError::Damaged("type of value")),
        }
    }

    /// Checks that the content ends here, properly.
    pub(super) fn finish(&mut self) -> Result<(), ImageError> {
        if self.used < self.chunk.len() {
            return Err(ImageError::Damaged("content goes on"));
        }
        self.next_chunk()?;
        if self.chunk.is_empty() { Ok(()) } else { Err(ImageError::Damaged("content goes on")) }
    }
}
