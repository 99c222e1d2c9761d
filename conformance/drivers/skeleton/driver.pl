#!/usr/bin/env perl
# A driver to begin with: it says hello, and "unsupported" to everything else. Copy it, in your language, and put your port behind it.
# It is run as `perl driver.pl client` or `perl driver.pl server`. Every command, argument and answer: docs/driver.md.
use strict;
use warnings;
use JSON::PP;

my $role = $ARGV[-1] // '';
my $json = JSON::PP->new->utf8->canonical;
$| = 1;    # Every answer leaves at once: a line that waits in a buffer is a driver that hangs.

# stdout belongs to answers and events, one line of JSON each. What is for people goes to stderr, and into the report.
sub say_line { print $json->encode(shift), "\n" }

my %client = (

    # {"url", "namespace", "name", "service", "method", "params"?, "timeout_ms"?, "idempotent"?, "value"?}
    # `params` is JSON text inside a string, and so is the `value` that you answer: your port is to see the digits as they are.
    # call => sub {
    #     my ($ask) = @_;
    #     my $client = YourPort::Client->new(url => $ask->{url}, namespace => $ask->{namespace}, name => $ask->{name});
    #     my $result = $client->call($ask->{service}, $ask->{method}, decode_json($ask->{params}), $ask->{timeout_ms} / 1000);
    #     return { outcome => 'result', value => $json->encode($result) };
    #     # or { outcome => 'error', name => 'MethodNotFound', code => -32601, message => '…', data => '{"json": "text"}' }
    #     # or { outcome => 'refused_locally' }: your port's argument error, before anything was sent
    # },
    # notify => …, close => …, and, if hello claims "many": many => …
);

my %server = (

    # {"url", "namespace", "service", "concurrency"?}: serve the fixed methods of docs/driver.md, and answer with the worker's id.
    # Before a handler does anything else:
    #     say_line({ event => 'invoked', namespace => $ns, service => $service, method => 'echo' });
    # serve => sub { my ($ask) = @_; …; return { worker => $server->id } },
    # stop => sub { …; return {} },    # answered when your worker has said goodbye
);

# "concurrent" => true: commands may come before the last one is answered, and answers may come in any order. Then each command
# needs a thread, a task or a fork. Without it the suite waits for each answer, and takes longer.
my $hello = {
    name => 'your-port', version => '0.0.0', language => 'yours', spec => ['1'], features => [], concurrent => JSON::PP::false,
};

my %commands = (hello => sub { $hello }, $role eq 'client' ? %client : %server);

while (my $line = <STDIN>) {    # until stdin is closed: then end
    my $ask = $json->decode($line);
    my $command = $commands{ $ask->{cmd} };
    my $answer = $command ? eval { $command->($ask) } // { error => "$@" } : { error => 'unsupported' };
    say_line({ %$answer, id => $ask->{id} });
}
