#!/usr/bin/env perl
# A worker that is wrong on purpose: the suite has to say so, and why. It serves echo and add, over Perl's own sockets; `without=…`
# names what it leaves out of a reply's transaction: PEXPIRE (SABIR-REPLY-3: replies stay for ever), LREM (SABIR-REPLY-3: so does
# the element in the hand), WORKER (SABIR-REPLY-1: the reply doesn't say who answers). `without=` is right, as far as it goes.
use strict;
use warnings;
use IO::Socket::INET;
use JSON::PP;
use Time::HiRes 'time';

my ($without) = map { /^without=(.*)/ } @ARGV;
my %without = map { $_ => 1 } split /,/, $without // '';
my $json = JSON::PP->new->utf8->canonical->allow_nonref;
my %workers;    # place => process id
$| = 1;

sub say_line { syswrite STDOUT, $json->encode(shift) . "\n" }

# ---------------------------------------------------------------------------------------------------- Redis

my $socket;

sub send_all { syswrite $socket, join '', map { '*' . @$_ . "\r\n" . join '', map { '$' . length() . "\r\n$_\r\n" } @$_ } @_ }

sub reply {
    my ($kind, $rest) = (readline $socket) =~ /^(.)(.*)\r\n$/s or exit 1;
    die "$rest\n" if $kind eq '-';
    return [map { reply() } 1 .. $rest] if $kind eq '*' && $rest >= 0;
    return $kind eq '*' || $rest < 0 ? undef : bulk($rest) if $kind =~ /[*\$]/;
    return $rest;
}

sub bulk { my $length = shift; read $socket, my $data, $length + 2; return substr $data, 0, $length }

sub run { send_all(@_); my @replies = map { reply() } @_; return $replies[-1] }

sub connect_to {
    my ($user, $password, $host, $port) = shift =~ m{^redis://(?:([^:@]*):([^@]*)@)?([^:/]+):(\d+)};
    $socket = IO::Socket::INET->new(PeerAddr => $host, PeerPort => $port) or die "no Redis at $host:$port\n";
    run(['AUTH', $user || 'default', $password]) if defined $password;
}

# ---------------------------------------------------------------------------------------------------- the worker

my %methods = (echo => sub { $_[0] }, add => sub { $_[0] + $_[1] });
my %names = (echo => ['value'], add => ['a', 'b']);

sub answer {
    my ($ask, $worker, $body) = @_;
    my $method = $body->{method};
    return (error => { code => -32601, message => 'no such method' }) unless $methods{$method};
    my $params = $body->{params} // [];
    my @given = ref $params eq 'HASH' ? @$params{ @{ $names{$method} } } : @$params;
    return (error => { code => -32602, message => 'they do not fit' }) unless @given == @{ $names{$method} };
    say_line({ event => 'invoked', namespace => $ask->{namespace}, service => $ask->{service}, method => $method });
    return (result => $methods{$method}->(@given));
}

sub work {
    my ($ask, $worker) = @_;
    my $key = sub { "$ask->{namespace}:{$ask->{service}}:$_[0]" };
    my $stopping = 0;
    local $SIG{TERM} = sub { $stopping = 1 };
    connect_to($ask->{url});
    my $now = run(['TIME']);
    my $ahead = $now->[0] + $now->[1] / 1e6 - time;
    my $lease = sub { ['ZADD', $key->('leases'), int((time() + $ahead) * 1000) + 10_000, $worker] };
    run($lease->(), ['SET', $key->('alive'), 1, 'PX', 10_000]);
    until ($stopping) {
        my $element = run($lease->(), ['BLMOVE', $key->('requests'), $key->("active:$worker"), 'LEFT', 'RIGHT', '0.1']) // next;
        my $request = eval { $json->decode($element) } // next;    # a dead letter would be due
        my ($id, $token) = @$request{ 'id', 'reply_to' };
        my $body = { jsonrpc => '2.0', id => $id, answer($ask, $worker, $request->{body}) };
        my $reply = $json->encode({ v => 1, id => $id, body => $body, $without{WORKER} ? () : (worker => $worker) });
        my @commands = (['RPUSH', $key->("reply:$token"), $reply]);
        push @commands, ['PEXPIRE', $key->("reply:$token"), 60_000] unless $without{PEXPIRE};
        push @commands, ['LREM', $key->("active:$worker"), 1, $element] unless $without{LREM};
        run(['MULTI'], @commands, ['EXEC']);
    }
    run(['ZREM', $key->('leases'), $worker]);
}

# ---------------------------------------------------------------------------------------------------- commands

my %commands = (
    hello => sub { +{ name => 'wrong', version => '0', language => 'Perl', spec => ['1'], features => [] } },
    serve => sub {
        my ($ask) = @_;
        my $worker = sprintf 'wrong.%08x%08x', map { int rand 2**32 } 1, 2;
        my $process = fork // die "no fork: $!\n";
        if (!$process) { eval { work($ask, $worker) }; warn $@ if $@; exit }
        $workers{"$ask->{namespace} $ask->{service}"} = $process;
        return { worker => $worker };
    },
    stop => sub {
        my ($ask) = @_;
        my $process = delete $workers{"$ask->{namespace} $ask->{service}"};
        kill TERM => $process;
        waitpid $process, 0;
        return {};
    },
);

while (my $line = <STDIN>) {
    my $ask = $json->decode($line);
    my $command = $commands{ $ask->{cmd} };
    my $answer = $command ? eval { $command->($ask) } // { error => "$@" } : { error => 'unsupported' };
    say_line({ %$answer, id => $ask->{id} });
}
kill TERM => values %workers;
