using System.Text;

namespace Hybrid.Runner.Formats;

/// <summary>The header of a .npy file: a Python dict of descr, fortran_order and shape, written as text.</summary>
internal sealed record NpyHeader(string Type, bool FortranOrder, long[] Shape)
{
    private static ReadOnlySpan<byte> Mark => [0x93, (byte)'N', (byte)'U', (byte)'M', (byte)'P', (byte)'Y'];

    public static NpyHeader Read(MappedFile file, out long dataStart)
    {
        if (file.Length < 10 || !file.Bytes(0, 6).SequenceEqual(Mark))
        {
            throw new InputException($"{file.Path} is not a .npy file: it does not begin with NumPy's mark.");
        }

        byte version = file.Bytes(6, 1)[0];
        if (version is < 1 or > 3 || (version > 1 && file.Length < 12))
        {
            throw new InputException($"{file.Path}: the .npy version {version} is not 1, 2 or 3, or the file is cut short (offset 6).");
        }

        long start = version == 1 ? 10 : 12;
        long length = version == 1 ? file.Values<ushort>(8, 1)[0] : file.Values<uint>(8, 1)[0];
        if (length > file.Length - start || length > 1 << 20)
        {
            throw new InputException($"{file.Path}: the .npy header claims {length} bytes and {file.Length - start} follow (offset 8).");
        }

        dataStart = start + length;
        string text = (version == 3 ? Encoding.UTF8 : Encoding.Latin1).GetString(file.Bytes(start, (int)length));
        return new Parser(file.Path, text, start).Header();
    }

    /// <summary>A version 1 header, padded so that the data begins at a multiple of 64, as NumPy writes it.</summary>
    public static byte[] Format(string type, ReadOnlySpan<long> shape)
    {
        string axes = shape.Length == 1 ? $"{shape[0]}," : string.Join(", ", shape.ToArray());
        string dict = $"{{'descr': '{type}', 'fortran_order': False, 'shape': ({axes}), }}";
        int total = (10 + dict.Length + 1 + 63) / 64 * 64;
        string text = dict.PadRight(total - 11) + "\n";
        return [.. Mark, 1, 0, (byte)text.Length, (byte)(text.Length >> 8), .. Encoding.ASCII.GetBytes(text)];
    }

    private sealed class Parser(string path, string text, long origin)
    {
        private int at;

        public NpyHeader Header()
        {
            string? type = null;
            bool? fortran = null;
            long[]? shape = null;
            Expect('{');
            while (!Accept('}'))
            {
                string key = Quoted();
                Expect(':');
                switch (key)
                {
                    case "descr" when type is null:
                        type = Quoted();
                        break;
                    case "fortran_order" when fortran is null:
                        fortran = AcceptWord("True") || (AcceptWord("False") ? false : throw Wrong("fortran_order is neither True nor False"));
                        break;
                    case "shape" when shape is null:
                        shape = Tuple();
                        break;
                    default:
                        throw Wrong($"the key '{FileErrors.Show(key)}' is unknown or repeated");
                }

                if (!Accept(','))
                {
                    Expect('}');
                    break;
                }
            }

            Blank();
            if (at != text.Length || type is null || fortran is null || shape is null)
            {
                throw Wrong("it is not a dict of descr, fortran_order and shape alone");
            }

            return new NpyHeader(type, fortran.Value, shape);
        }

        private long[] Tuple()
        {
            List<long> lengths = [];
            Expect('(');
            while (!Accept(')'))
            {
                Blank();
                int start = at;
                while (at < text.Length && char.IsAsciiDigit(text[at]))
                {
                    at++;
                }

                lengths.Add(long.TryParse(text.AsSpan(start, at - start), System.Globalization.NumberStyles.None, null, out long length)
                    ? length
                    : throw Wrong("an axis of its shape is not a whole number below 2^63"));
                if (at < text.Length && text[at] == 'L')
                {
                    at++; // Python 2's long
                }

                if (!Accept(','))
                {
                    Expect(')');
                    break;
                }
            }

            return [.. lengths];
        }

        private string Quoted()
        {
            Blank();
            char quote = at < text.Length && text[at] is '\'' or '"' ? text[at++] : throw Wrong("a text in quotes is missing");
            int end = text.IndexOf(quote, at);
            if (end < 0)
            {
                throw Wrong("a text has no end");
            }

            string value = text[at..end];
            at = end + 1;
            return value;
        }

        private bool AcceptWord(string word)
        {
            Blank();
            bool found = string.CompareOrdinal(text, at, word, 0, word.Length) == 0;
            at += found ? word.Length : 0;
            return found;
        }

        private bool Accept(char wanted)
        {
            Blank();
            bool found = at < text.Length && text[at] == wanted;
            at += found ? 1 : 0;
            return found;
        }

        private void Expect(char wanted)
        {
            if (!Accept(wanted))
            {
                throw Wrong($"'{wanted}' is missing");
            }
        }

        private void Blank()
        {
            while (at < text.Length && text[at] is ' ' or '\n' or '\t')
            {
                at++;
            }
        }

        private InputException Wrong(string what) => new($"{path}: the .npy header is damaged: {what} (offset {origin + at}).");
    }
}
