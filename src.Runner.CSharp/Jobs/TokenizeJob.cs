using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>Text to token ids, or back.</summary>
internal static class TokenizeJob
{
    public static void Run(TokenizeCommand command)
    {
        using HuggingFaceTokenizer tokenizer = HuggingFaceTokenizer.Open(command.Tokenizer);
        if (command.Decode is { } given)
        {
            string text = tokenizer.Decode(given);
            if (command.Json)
            {
                Json.Write(new { Text = text });
            }
            else
            {
                Console.Out.WriteLine(text);
            }

            return;
        }

        int[] ids = tokenizer.Encode(command.Text ?? Files.Text(command.File ?? "", "the text"), command.Special);
        if (command.Json)
        {
            Json.Write(new { Ids = ids });
        }
        else
        {
            Console.Out.WriteLine(string.Join(' ', ids));
        }
    }
}
