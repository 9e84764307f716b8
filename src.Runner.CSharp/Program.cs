using Hybrid;
using Hybrid.Runner;
switch (CommandLine.parse(args))
{
    case RunOutcome { Command: StudyCommand study }:
        try { Hybrid.Runner.Study.StudyJob.Run(study, CancellationToken.None); return 0; }
        catch (InputException e) { Terminal.Fail(e.Message); return 1; }
    case HelpOutcome help: System.Console.WriteLine(help.Text); return 0;
    case UsageOutcome usage: System.Console.Error.WriteLine(usage.Text); return 2;
}
return 1;
