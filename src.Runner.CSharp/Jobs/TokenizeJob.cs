using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>Text to token ids, or back.</summary>
internal static class TokenizeJob
{
    public static void Run(TokenizeCommand command)
    {
        using HuggingFaceTokenizer tokenizer = HuggingFaceTokenizer.Open(command.Tokenizer);
        if (tokenizer.Warning is { } warning)
        {
            Terminal.Warn(warning);
        }

        if (command.Decode is { } given)
        {
            string text = tokenizer.Decode(given, command.Special);
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

        int[] ids = tokenizer.Encode(command.Text ?? Files.ExactText(command.File ?? "", "the text"), command.Special);
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
