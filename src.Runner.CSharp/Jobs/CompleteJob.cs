using Hybrid.Api;

namespace Hybrid.Runner;

/// <summary>The continuation of a text, or of token ids.</summary>
internal static class CompleteJob
{
    public static void Run(CompleteCommand command, CancellationToken stop)
    {
        using ModelFile file = ModelFiles.Open(command.Model);
        using PromptCodec? codec = command.Prompt is null && file.TokenizerPath is null ? null : PromptCodec.Beside(file);
        int[] prompt = command.Prompt is null ? [.. command.PromptIds ?? []] : codec!.Encode(command.Prompt);
        using Model model = file.Open(new Layout { Device = TorchLibrary.Device, Frozen = true });
        if (prompt.Length + command.MaxTokens > model.Config.Positions)
        {
            Terminal.Warn($"{prompt.Length} tokens and {command.MaxTokens} more are beyond the {model.Config.Positions} positions that the model was made for");
        }

        stop.ThrowIfCancellationRequested();
        int[] ids = model.Complete(prompt, command.MaxTokens, file.EndOfText, new Drawing { Temperature = command.Greedy ? 0 : 1 });
        string text = codec?.DecodeAfter(prompt, ids) ?? "";
        if (command.Json)
        {
            Json.Write(new { PromptIds = prompt, Ids = ids, Text = text });
        }
        else
        {
            Console.Out.WriteLine(codec is null ? string.Join(' ', ids) : command.Prompt + text);
            SayWithoutText(file.Vocabulary, ids);
        }
    }

    /// <summary>A model that has learnt to draw may answer a text with a picture: its marks and codes have no text to show.</summary>
    private static void SayWithoutText(Vocabulary vocabulary, int[] ids)
    {
        int codes = ids.Count(id => id >= vocabulary.FirstCode), marks = ids.Count(id => id >= vocabulary.TextRows) - codes;
        if (codes + marks > 0)
        {
            Terminal.Say($"{codes} of the {ids.Length} new tokens are image codes and {marks} are marks; they have no text");
        }
    }
}
